//! Llama 1 to 3.x and what shares its shape (SmolLM2): RMS norm, rotary embedding over
//! whole heads, SwiGLU. In GGUF the q/k rows are interleaved and Llama 3's frequency
//! change is a tensor of factors.
//!
//! Sources: arXiv 2302.13971, 2407.21783; transformers `configuration_llama.py`.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, LLAMA_NAMES, NormStorage};
use super::config::{Activation, Layer, Norm, NormPlacement, Positions, Rope};
use super::fields::{GgufFields, HfFields};
use super::{Architecture, Config};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Llama,
    hf_types: &["llama"],
    gguf_name: Some("llama"),
    names: &LLAMA_NAMES,
    norms: NormStorage::AsUsed,
    gguf_rotary: GgufRotary::Interleaved,
    from_hf,
    from_gguf,
};

/// Configuration from `config.json`.
pub fn from_hf(json: &Value) -> Result<Config> {
    let fields = HfFields::new(json);
    if fields.number_or("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(Error::bad_data("configuration: a partial rotary embedding is not supported"));
    }
    let hidden = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let mut config = rotary_decoder(
        Shape {
            hidden,
            heads,
            kv_heads: fields.size_or("num_key_value_heads", heads)?,
            head_dim: head_dim(&fields, hidden, heads)?,
            layers: fields.layers("num_hidden_layers")?,
        },
        fields.rope(10_000.0)?,
    );
    config.intermediate = fields.size("intermediate_size")?;
    config.vocab = fields.size("vocab_size")?;
    config.context = fields.size_or("max_position_embeddings", 2048)?;
    config.tied = fields.flag_or("tie_word_embeddings", false)?;
    config.norm = Norm::Rms { eps: fields.number_or("rms_norm_eps", 1e-6)? as f32 };
    config.activation = fields.gated_activation("hidden_act", "silu")?;
    Ok(config)
}

/// `head_dim`, or the width divided among the heads.
fn head_dim(fields: &HfFields, hidden: usize, heads: usize) -> Result<usize> {
    match fields.optional_size("head_dim")? {
        Some(width) => Ok(width),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(Error::bad_data(format!(
            "configuration: hidden_size {hidden} over {heads} heads, no head_dim"
        ))),
    }
}

/// Configuration from GGUF metadata. Whether the head is tied is not in the metadata:
/// the reader sets it.
pub fn from_gguf(metadata: &Metadata) -> Result<Config> {
    let fields = GgufFields::new(metadata)?;
    if fields.optional_size("expert_count")?.is_some() {
        return Err(Error::bad_data("a mixture of experts is not supported"));
    }
    let hidden = fields.size("embedding_length")?;
    let heads = fields.size("attention.head_count")?;
    let mut config = rotary_decoder(
        Shape {
            hidden,
            heads,
            kv_heads: fields.size_or("attention.head_count_kv", heads)?,
            head_dim: fields.head_dim(hidden, heads)?,
            layers: fields.layers()?,
        },
        fields.rope(10_000.0)?,
    );
    config.intermediate = fields.size("feed_forward_length")?;
    config.vocab = fields.vocab()?;
    config.context = fields.size_or("context_length", 2048)?;
    config.norm = Norm::Rms { eps: fields.number("attention.layer_norm_rms_epsilon")? as f32 };
    Ok(config)
}

/// The sizes that every rotary decoder states.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Features a head.
    pub head_dim: usize,
    /// Blocks.
    pub layers: usize,
}

/// A decoder of this family's kind with the given sizes; the fields that the sizes do
/// not settle hold Llama's values, for relatives to change.
pub fn rotary_decoder(shape: Shape, rope: Rope) -> Config {
    Config {
        architecture: Architecture::Llama,
        hidden: shape.hidden,
        intermediate: 4 * shape.hidden,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        vocab: 32_000,
        context: 2048,
        tied: false,
        norm: Norm::Rms { eps: 1e-6 },
        placement: NormPlacement::Before,
        qk_norm: false,
        activation: Activation::SwiGlu,
        attention_scale: (1.0 / (shape.head_dim as f64).sqrt()) as f32,
        attention_softcap: None,
        logit_softcap: None,
        embedding_scale: 1.0,
        embedding_width: shape.hidden,
        positions: Positions::Rotary(vec![rope]),
        layers: vec![Layer { window: None, rope: 0 }; shape.layers],
    }
}

#[cfg(test)]
#[path = "llama_tests.rs"]
mod tests;
