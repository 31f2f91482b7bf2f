"""GGUF files of the tiny models, in the conventions of llama.cpp's converter.

Not run by itself: tiny_models.py calls `write`. Conventions: tensor names of the `gguf`
package; `llama` stores q and k rows with the two halves of each head interleaved
(rotary pairs side by side); `gemma3` stores norm weights with 1 added; Llama 3's rotary scaling is a tensor of divisors,
rope_freqs.weight; all tensors F32.
The vocabulary is a dummy so that the file is complete. llamacpp_tiny.py checks that
llama.cpp computes the golden logits from these files.
"""

import gguf
import numpy as np

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}


def interleave(weight, heads):
    """Rows [half 0 | half 1] of each head to pairs (half 0 row, half 1 row)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def vocabulary(writer, config):
    size = config.vocab_size
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"t{i}".encode() for i in range(3, size)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (size - 3)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0])
    writer.add_add_bos_token(False)


def frequency_divisors(model, theta, head_dim):
    """Plain rotary frequencies over those that transformers made of them."""
    plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    return (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)


def shape(writer, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def positions(writer, config, head_dim):
    rope = config.rope_parameters
    if config.model_type in ("gemma3_text", "qwen3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        return
    if config.model_type == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])


def write(folder, model):
    """Writes `folder`/model.gguf."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    writer.add_name(folder.name)
    shape(writer, config)
    positions(writer, config, head_dim)
    vocabulary(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, value in model.named_parameters():
        data = value.detach().numpy().astype(np.float32)
        if architecture == "llama" and ".q_proj." in name:
            data = interleave(data, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            data = interleave(data, config.num_key_value_heads)
        if architecture == "gemma3" and "norm" in name:
            data = data + np.float32(1)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, name
        writer.add_tensor(target, np.ascontiguousarray(data))
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", frequency_divisors(model, config.rope_parameters["rope_theta"], head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
