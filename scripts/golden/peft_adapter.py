"""Small random LoRA adapters on two tiny golden models, and what Python peft computes with them.

For each adapter: adapter_config.json and adapter_model.safetensors as peft writes them, and
golden.safetensors with `tokens` (I64 [24]) and `logits` (F32 [24, vocab]), computed in float64 on
the weights as stored. The script refuses an adapter that moves the logits by less than LEAST_EFFECT,
and one in which leaving out a switch (a rank, a factor, the rank-stabilised scale) does.

Requires: requirements.txt beside this file (torch, transformers, peft, safetensors).
Command:  python scripts/golden/peft_adapter.py crates/tamis/tests/golden
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

LEAST_EFFECT = 0.02

# name -> model, settings, type on disk, settings that must be felt
ADAPTERS = {
    "llama-gqa": (
        "llama-gqa",
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"]),
        torch.float32,
        [dict(lora_alpha=4)],
    ),
    "qwen2-patterns": (
        "qwen2",
        dict(
            r=4, lora_alpha=6, use_rslora=True,
            target_modules=r".*\.(self_attn\.(q|k|v)_proj|mlp\.(gate|up|down)_proj)",
            rank_pattern={r"layers\.1\.mlp\..*_proj": 2, "up_proj": 6},
            alpha_pattern={"self_attn.k_proj": 12, r"0\.mlp\.down_proj": 3},
        ),
        torch.float16,
        [dict(use_rslora=False), dict(alpha_pattern={})],
    ),
}


def random_like(name, tensor, dtype):
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    return (torch.randn(tensor.shape, generator=generator) / tensor.shape[1] ** 0.5).to(dtype)


def logits(folder, adapter, tokens, **changed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    if adapter is not None:
        config = LoraConfig.from_pretrained(adapter)
        for key, value in changed.items():
            setattr(config, key, value)
        model = PeftModel.from_pretrained(model, adapter, config=config, autocast_adapter_dtype=False).double()
    with torch.no_grad():
        return model.eval()(tokens[None], use_cache=False).logits[0]


def write(root, name, model, settings, dtype):
    out = root / "adapters" / name
    base = AutoModelForCausalLM.from_pretrained(root / "models" / model)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            parameter.data = random_like(f"{name}.{key}", parameter, dtype)
    shutil.rmtree(out, ignore_errors=True)
    adapted.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"../../models/{model}"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set, whose order differs from run to run
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return out


def main(root):
    root = Path(root)
    for name, (model, settings, dtype, felt) in ADAPTERS.items():
        out = write(root, name, model, settings, dtype)
        tokens = load_file(root / "models" / model / "golden.safetensors")["tokens"].long()
        expected = logits(root / "models" / model, out, tokens)
        effect = lambda other: (expected - other).abs().max().item()
        effects = [effect(logits(root / "models" / model, None, tokens))]
        effects += [effect(logits(root / "models" / model, out, tokens, **change)) for change in felt]
        assert min(effects) > LEAST_EFFECT, (name, effects)
        save_file({"tokens": tokens, "logits": expected.float().contiguous()}, out / "golden.safetensors")
        print(name, f"largest logit {expected.abs().max():.3f}, effects", [f"{e:.3f}" for e in effects])


if __name__ == "__main__":
    main(sys.argv[1])
