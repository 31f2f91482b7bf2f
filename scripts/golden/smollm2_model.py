"""SmolLM2-135M-Instruct from its Q4_1 GGUF file to exact float32.

Not run by itself; used by smollm2.py and llamacpp_greedy.py. Weights come from
`gguf.quants.dequantize` (float32, exact for the file's bits); q and k rows are put back
from llama.cpp's interleaved order to Hugging Face's halves.
"""

import hashlib

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def halves(rows, heads):
    """Rows (half 0 row, half 1 row) pairs of each head to [half 0 | half 1]."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def field(reader, key):
    return reader.fields[key].contents()


def tensors(reader):
    """Hugging Face name -> float32 array."""
    heads = {"attn_q": field(reader, "llama.attention.head_count"), "attn_k": field(reader, "llama.attention.head_count_kv")}
    for tensor in reader.tensors:
        data = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        data = data.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            role = parts[2]
            data = halves(data, heads[role]) if role in heads else data
            yield f"model.layers.{parts[1]}.{NAMES[role]}.weight", data
        else:
            yield f"{TOP[parts[0]]}.weight", data


def load(path):
    """A float32 LlamaForCausalLM with the dequantised weights."""
    reader = gguf.GGUFReader(path)
    config = LlamaConfig(
        vocab_size=field(reader, "llama.vocab_size"),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=field(reader, "llama.attention.head_count"),
        num_key_value_heads=field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=float(f"{field(reader, 'llama.attention.layer_norm_rms_epsilon'):.3g}"),
        rope_parameters={"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"),
    )
    model = LlamaForCausalLM.from_pretrained(
        None, config=config, dtype=torch.float32, attn_implementation="sdpa",
        state_dict={name: torch.from_numpy(data.copy()) for name, data in tensors(reader)},
    )
    return model.eval(), field(reader, "tokenizer.chat_template")
