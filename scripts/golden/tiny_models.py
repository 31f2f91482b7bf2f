"""Tiny random models of every supported family, and what transformers computes with them.

For each model: a Hugging Face folder (config.json, config.legacy.json, *.safetensors) and
golden.safetensors with `tokens` (I64 [24]) and `logits` (F32 [24, vocab]), computed by
transformers in float64 (its own float32 islands remain: RMSNorm, softmax, rotary tables), eager
attention, no cache. `config.legacy.json` is the same configuration as transformers 4
wrote it (rope_theta, rope_scaling, sliding_window_pattern); the script checks that
transformers reads both alike.

Every parameter is random (norm weights and biases too), drawn from a generator seeded by
model and parameter name, and the script refuses to write a model in which leaving out any
parameter or any listed switch changes the logits by less than 0.02.

Requires: requirements.txt beside this file (torch, transformers, safetensors, numpy, gguf).
Command:  python scripts/golden/tiny_models.py crates/tamis/tests/golden/models
"""

import copy
import hashlib
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_gguf

LEAST_EFFECT = 0.02
LENGTH = 24
NEW_KEYS = ("rope_parameters", "layer_types", "_sliding_window_pattern")

BASE = dict(
    vocab_size=67, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    pad_token_id=None,
)


def rope(theta, kind="default", **rest):
    return {"rope_type": kind, "rope_theta": theta, **rest}


GEMMA = dict(
    BASE, head_dim=10, rms_norm_eps=1e-6, sliding_window=5, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    tie_word_embeddings=True, num_key_value_heads=1,
)
OPT = dict(
    vocab_size=67, hidden_size=32, ffn_dim=52, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=40, dropout=0.0, activation_function="relu",
)

# name -> model_type, config, config changes that must be felt, dtype on disk, shard size, GGUF too
MODELS = {
    "llama-gqa": dict(
        kind="llama", config=dict(BASE, rope_parameters=rope(10000.0), tie_word_embeddings=False),
        felt=[{"rope_parameters": rope(500000.0)}, {"rms_norm_eps": 0.1}], gguf=True,
    ),
    "llama3-rope": dict(
        kind="llama",
        config=dict(
            BASE, num_key_value_heads=1, num_hidden_layers=3, intermediate_size=40, tie_word_embeddings=True,
            max_position_embeddings=512,
            rope_parameters=rope(
                10000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        felt=[
            {"rope_parameters": rope(10000.0)},
            {"rope_parameters": rope(10000.0, "linear", factor=8.0)},
            {"rope_parameters": rope(10000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=256)},
        ],
    ),
    # The one band that real checkpoints have, and so the one that GGUF readers can recognise.
    # 24 tokens turn its slow pairs only a little.
    "llama3-8k": dict(
        kind="llama",
        config=dict(
            BASE, hidden_size=24, num_attention_heads=2, num_key_value_heads=1, intermediate_size=20,
            tie_word_embeddings=True, max_position_embeddings=131072,
            rope_parameters=rope(
                10000.0, "llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=8192,
            ),
        ),
        felt=[{"rope_parameters": rope(10000.0)}, {"rope_parameters": rope(10000.0, "linear", factor=32.0)}],
        gguf=True,
    ),
    "llama-bias": dict(
        kind="llama",
        config=dict(
            BASE, vocab_size=71, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
            rope_parameters=rope(10000.0, "linear", factor=2.5),
        ),
        felt=[{"rope_parameters": rope(10000.0)}], shard="56KB",
    ),
    "mistral-window": dict(
        kind="mistral",
        config=dict(BASE, head_dim=6, sliding_window=5, rope_parameters=rope(10000.0), tie_word_embeddings=False),
        felt=[{"sliding_window": None}, {"sliding_window": 4}, {"sliding_window": 6}], dtype="float16",
    ),
    "smollm2-like": dict(
        kind="llama",
        config=dict(
            BASE, hidden_size=36, num_attention_heads=9, num_key_value_heads=3, intermediate_size=52,
            tie_word_embeddings=True, rope_parameters=rope(100000.0), bos_token_id=1, eos_token_id=2, pad_token_id=2,
        ),
        felt=[{"rope_parameters": rope(10000.0)}], dtype="bfloat16",
    ),
    "qwen2": dict(
        kind="qwen2",
        config=dict(BASE, rope_parameters=rope(1000000.0), tie_word_embeddings=True, rms_norm_eps=1e-6),
        felt=[{"rope_parameters": rope(10000.0)}], gguf=True,
    ),
    "qwen3": dict(
        kind="qwen3",
        config=dict(BASE, head_dim=10, rope_parameters=rope(1000000.0), tie_word_embeddings=False, rms_norm_eps=1e-6),
        felt=[{"rope_parameters": rope(10000.0)}], gguf=True,
    ),
    "gemma3": dict(
        kind="gemma3_text",
        config=dict(
            GEMMA, hidden_size=28, num_hidden_layers=7, intermediate_size=36, query_pre_attn_scalar=10,
            rope_parameters={"sliding_attention": rope(10000.0), "full_attention": rope(1000000.0)},
        ),
        felt=[
            {"sliding_window": 6}, {"query_pre_attn_scalar": 7},
            {"layer_types": ["full_attention"] * 7}, {"layer_types": ["sliding_attention"] * 7},
            {"rope_parameters": {"sliding_attention": rope(1000000.0), "full_attention": rope(1000000.0)}},
            {"rope_parameters": {"sliding_attention": rope(10000.0), "full_attention": rope(10000.0)}},
        ],
        gguf=True, pattern=6,
    ),
    "gemma3-scaled": dict(
        kind="gemma3_text",
        config=dict(
            GEMMA, num_hidden_layers=3, query_pre_attn_scalar=17, final_logit_softcapping=6.0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": rope(10000.0),
                "full_attention": rope(1000000.0, "linear", factor=8.0),
            },
        ),
        felt=[
            {"query_pre_attn_scalar": 10}, {"final_logit_softcapping": None},
            {"rope_parameters": {"sliding_attention": rope(10000.0), "full_attention": rope(1000000.0)}},
        ],
        pattern=2,
    ),
    "opt-125m-like": dict(kind="opt", config=OPT, felt=[{"activation_function": "gelu"}]),
    "opt-350m-like": dict(
        kind="opt", config=dict(OPT, word_embed_proj_dim=20, do_layer_norm_before=False), felt=[],
    ),
}


def draw(model_name, name, parameter, tied):
    """Random values for one parameter, large enough that each one matters."""
    seed = int.from_bytes(hashlib.sha256(f"{model_name}/{name}".encode()).digest()[:8], "little")
    random = np.random.Generator(np.random.PCG64(seed))
    shape = tuple(parameter.shape)
    if "norm" in name and name.endswith("weight"):
        centre = 0.0 if model_name.startswith("gemma") else 1.0
        value = centre + random.uniform(-0.6, 0.6, shape)
    elif len(shape) == 1:
        value = random.normal(0.0, 0.4, shape)
    elif "embed_tokens" in name:
        value = random.normal(0.0, 0.5 if tied else 1.0, shape)
    elif "embed_positions" in name:
        value = random.normal(0.0, 0.7, shape)
    else:
        value = random.normal(0.0, 1.4 / math.sqrt(shape[-1]), shape)
    return torch.from_numpy(value.astype(np.float32))


def build(spec, state=None, **changes):
    """A float64 model of `spec`, with `state` or torch's own initial values."""
    fields = copy.deepcopy({**spec["config"], **changes})
    config = AutoConfig.for_model(spec["kind"], **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    if state is not None:
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
        model.tie_weights()
    return model.eval()


def logits(model, tokens, dtype=torch.float64):
    with torch.no_grad():
        return model.to(dtype)(input_ids=tokens[None], use_cache=False).logits[0].double()


def effects(spec, state, tokens, golden):
    """How far the largest logit change goes when a parameter or a switch is left out."""
    felt = {}
    for role in sorted({re.sub(r"\.\d+\.", ".*.", name) for name in state}):
        # Without rotary positions a key bias adds the same score to every key: softmax drops it.
        if spec["kind"] == "opt" and role.endswith("k_proj.bias"):
            continue
        neutral = 1.0 if "norm" in role and role.endswith("weight") and "gemma" not in spec["kind"] else 0.0
        changed = {
            name: torch.full_like(value, neutral) if re.sub(r"\.\d+\.", ".*.", name) == role else value
            for name, value in state.items()
        }
        felt[role] = (logits(build(spec, changed), tokens) - golden).abs().max().item()
    for change in spec["felt"]:
        felt[json.dumps(change)] = (logits(build(spec, state, **change), tokens) - golden).abs().max().item()
    return felt


def legacy(spec, config):
    """The configuration as transformers 4 wrote it."""
    old = {key: value for key, value in config.items() if key not in NEW_KEYS}
    old["transformers_version"] = "4.51.0"
    old["torch_dtype"] = old.pop("dtype")
    parameters = config.get("rope_parameters")
    if parameters and "full_attention" in parameters:
        old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        old["sliding_window_pattern"] = spec["pattern"]
        parameters = parameters["full_attention"]
    if parameters:
        old["rope_theta"] = parameters["rope_theta"]
        scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
        old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    return old


def write_legacy(spec, folder):
    config = json.loads((folder / "config.json").read_text())
    old = legacy(spec, config)
    kind = AutoConfig.for_model(spec["kind"]).__class__
    new_way, old_way = kind.from_dict(dict(config)).to_dict(), kind.from_dict(copy.deepcopy(old)).to_dict()
    for key in config:
        if key not in ("transformers_version", "dtype", "architectures", "_sliding_window_pattern"):
            assert new_way[key] == old_way[key], (folder.name, key, new_way[key], old_way[key])
    (folder / "config.legacy.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")


def make(name, spec, root):
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build(spec)
    tied = model.config.tie_word_embeddings
    dtype = getattr(torch, spec.get("dtype", "float32"))
    state = {key: draw(name, key, value, tied).to(dtype).float() for key, value in model.named_parameters()}
    random = np.random.Generator(np.random.PCG64(len(name)))
    vocab = spec["config"]["vocab_size"]
    tokens = torch.from_numpy(random.integers(3, vocab, LENGTH))
    tokens[0], tokens[-1], tokens[9] = 1, vocab - 1, tokens[4]

    golden = logits(build(spec, state), tokens)
    single = (logits(build(spec, state), tokens, torch.float32) - golden).abs().max().item()
    felt = effects(spec, state, tokens, golden)
    weakest = min(felt, key=felt.get)
    assert felt[weakest] >= LEAST_EFFECT, (name, weakest, felt[weakest])
    assert golden.isfinite().all()

    saved = build(spec, state).to(dtype)
    saved.save_pretrained(folder, max_shard_size=spec.get("shard", "1GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_legacy(spec, folder)
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    assert torch.equal(logits(again, tokens), golden), name
    if spec.get("gguf"):
        tiny_gguf.write(folder, saved.float())
    made = {
        "made_by": "scripts/golden/tiny_models.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "computed_in": "float64",
        "float32_max_abs_difference": f"{single:.1e}",
        "weakest_effect": f"{felt[weakest]:.3f} {weakest}",
    }
    tensors = {"tokens": tokens.to(torch.int64), "logits": golden.float().contiguous()}
    # One metadata entry: the writer does not keep the order of several.
    save_file(tensors, folder / "golden.safetensors", metadata={"golden": json.dumps(made)})
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors leaves 0600
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name:16} {size:7} bytes  logit sd {golden.std():.2f}  f32 diff {single:.1e}  "
          f"weakest {felt[weakest]:.3f} {weakest}", flush=True)


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        make(name, MODELS[name], root)


if __name__ == "__main__":
    main()
