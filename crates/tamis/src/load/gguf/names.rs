//! GGUF tensor names to Hugging Face names, through the roles of a family's [`Names`].
//!
//! Source: the tensor name table of llama.cpp's `gguf-py` (`tensor_mapping.py`).

use crate::model::architecture::Names;

/// The Hugging Face name of a GGUF tensor; none for a tensor without a role.
pub(super) fn hf_name(names: &Names, gguf: &str) -> Option<String> {
    let (stem, suffix) = gguf.rsplit_once('.').filter(|(_, s)| matches!(*s, "weight" | "bias"))?;
    let Some(rest) = stem.strip_prefix("blk.") else {
        return whole_model(names, stem).map(|name| format!("{name}.{suffix}"));
    };
    let (index, role) = rest.split_once('.')?;
    // Only the canonical spelling, so two GGUF names never meet in one HF name.
    let index: usize = index.parse().ok().filter(|i: &usize| i.to_string() == index)?;
    let name = in_block(names, role)?;
    Some(format!("{}.{index}.{name}.{suffix}", names.block))
}

fn whole_model(names: &Names, stem: &str) -> Option<&'static str> {
    match stem {
        "token_embd" => Some(names.embedding),
        "position_embd" => names.positions,
        "output_norm" => Some(names.final_norm),
        "output" => Some(names.head),
        _ => None,
    }
}

fn in_block(names: &Names, role: &str) -> Option<&'static str> {
    match role {
        "attn_norm" => Some(names.attention_norm),
        "attn_q" => Some(names.q),
        "attn_k" => Some(names.k),
        "attn_v" => Some(names.v),
        "attn_output" => Some(names.o),
        "attn_q_norm" => Some(names.q_norm),
        "attn_k_norm" => Some(names.k_norm),
        "post_attention_norm" => names.post_attention_norm,
        "ffn_norm" => Some(names.mlp_norm),
        "ffn_gate" => names.gate,
        "ffn_up" => Some(names.up),
        "ffn_down" => Some(names.down),
        "post_ffw_norm" => names.post_mlp_norm,
        _ => None,
    }
}
