//! Gemma 3, text only: norms before and after each sub-layer, q/k norms, five local layers
//! (window, their own rotary table) to one global, embedding times `sqrt(hidden)`, GELU
//! gate. Files store norm weights as `w - 1`. Knows nothing of images.
//!
//! Sources: arXiv 2503.19786; transformers `configuration_gemma3.py`; llama.cpp
//! `src/models/gemma3.cpp` for what its GGUF files leave unsaid.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, LLAMA_NAMES, Names, NormStorage};
use super::config::{Activation, Layer, NormPlacement, Positions, Rope, RopeScaling};
use super::fields::{GgufFields, HfFields};
use super::kin::{self, Defaults};
use super::{Architecture, Config, llama};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Gemma3,
    hf_types: &["gemma3_text", "gemma3"],
    gguf_name: Some("gemma3"),
    names: &NAMES,
    norms: NormStorage::MinusOne,
    gguf_rotary: GgufRotary::Halves,
    from_hf,
    from_gguf,
};

const NAMES: Names = Names {
    post_attention_norm: Some("post_attention_layernorm"),
    mlp_norm: "pre_feedforward_layernorm",
    post_mlp_norm: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};

const DEFAULTS: Defaults = Defaults {
    architecture: Architecture::Gemma3,
    kv_heads: 4,
    head_dim: Some(256),
    context: 131_072,
    tied: true,
};

/// Every sixth layer is global, where the file does not say otherwise.
const PATTERN: usize = 6;
/// Rotary base of global and of local layers.
const THETA: (f64, f64) = (1_000_000.0, 10_000.0);
/// Index of the rotary table of global and of local layers.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

/// Configuration from `config.json`.
fn from_hf(json: &Value) -> Result<Config> {
    let fields = HfFields::new(json);
    refuse_unsupported(&fields)?;
    let mut config = shared(kin::from_hf(json, DEFAULTS)?);
    let (global, local) = ropes(&fields)?;
    config.positions = Positions::Rotary(vec![global, local]);
    let pattern = fields.size_or("sliding_window_pattern", PATTERN)?;
    let slides = kin::sliding_layers(&fields, config.layers.len())?;
    let slides = slides.unwrap_or_else(|| alternate(config.layers.len(), pattern));
    config.layers = layers(&slides, kin::window(json, 4096)?)?;
    config.activation = fields.gated_activation("hidden_activation", "gelu_pytorch_tanh")?;
    config.attention_scale = match fields.number_or("query_pre_attn_scalar", 256.0)? {
        scalar if scalar > 0.0 => kin::attention_scale(scalar),
        scalar => return Err(Error::bad_data(format!("configuration: query_pre_attn_scalar is {scalar}"))),
    };
    config.logit_softcap = softcap(fields.optional_number("final_logit_softcapping")?)?;
    Ok(config)
}

fn refuse_unsupported(fields: &HfFields) -> Result<()> {
    if fields.get("text_config").is_some() {
        return Err(Error::bad_data(
            "configuration: a Gemma 3 with a vision tower (text_config) is not supported",
        )
        .next("save its language model alone (transformers: Gemma3ForCausalLM) and use that folder"));
    }
    if fields.flag_or("use_bidirectional_attention", false)? {
        return Err(Error::bad_data(
            "configuration: use_bidirectional_attention is set; this is no causal model",
        ));
    }
    if fields.get("attn_logit_softcapping").is_some() {
        // transformers 5.23 reads the key and does not apply it: no one to agree with.
        return Err(Error::bad_data("configuration: attn_logit_softcapping is not part of Gemma 3")
            .next("set it to null if the model was made without it"));
    }
    Ok(())
}

/// What no file has to say.
fn shared(config: Config) -> Config {
    Config {
        architecture: Architecture::Gemma3,
        placement: NormPlacement::Both,
        qk_norm: true,
        activation: Activation::GeGluTanh,
        embedding_scale: (config.hidden as f64).sqrt() as f32,
        ..config
    }
}

/// The global and the local rotary table. `rope_parameters` holds one object a layer type;
/// older files have `rope_theta` and `rope_scaling` (global), `rope_local_base_freq` (local).
fn ropes(fields: &HfFields) -> Result<(Rope, Rope)> {
    let local_theta = fields.number_or("rope_local_base_freq", THETA.1)?;
    let all = fields.section("rope_parameters")?;
    let nested = |kind| all.map_or(Ok(None), |all| all.section(kind));
    let local = match nested("sliding_attention")? {
        Some(section) => section.rope_section(local_theta, fields)?,
        None => Rope { theta: local_theta, scaling: RopeScaling::Default },
    };
    let global = match nested("full_attention")? {
        Some(section) => section.rope_section(fields.number_or("rope_theta", THETA.0)?, fields)?,
        None => fields.rope(THETA.0)?,
    };
    Ok((global, local))
}

/// `pattern - 1` sliding layers, then a global one.
fn alternate(layers: usize, pattern: usize) -> Vec<bool> {
    (1..=layers).map(|i| !i.is_multiple_of(pattern)).collect()
}

fn layers(slides: &[bool], window: Option<usize>) -> Result<Vec<Layer>> {
    let mut layers = kin::layers_of(slides, window)?;
    layers.iter_mut().zip(slides).for_each(|(layer, s)| layer.rope = if *s { LOCAL } else { GLOBAL });
    Ok(layers)
}

fn softcap(value: Option<f64>) -> Result<Option<f32>> {
    match value {
        Some(cap) if cap <= 0.0 => Err(Error::bad_data(format!("configuration: a logit softcap of {cap}"))),
        cap => Ok(cap.map(|c| c as f32)),
    }
}

/// Configuration from GGUF metadata. Local layers use `rope.freq_base_swa` (10,000 where
/// absent) without scaling; the attention scale is not in the file: llama.cpp takes
/// `1/sqrt(head_dim)`, but for the 27B model (62 layers) `1/sqrt(hidden/heads)`.
fn from_gguf(metadata: &Metadata) -> Result<Config> {
    let fields = GgufFields::new(metadata)?;
    let mut config = shared(llama::from_gguf(metadata)?);
    let local =
        Rope { theta: fields.number_or("rope.freq_base_swa", THETA.1)?, scaling: RopeScaling::Default };
    if let Positions::Rotary(tables) = &mut config.positions {
        tables.push(local);
    }
    if let Some(window) = fields.optional_size("attention.sliding_window")? {
        config.layers = layers(&gguf_slides(metadata, config.layers.len())?, Some(window))?;
    }
    if config.layers.len() == 62 {
        config.attention_scale = kin::attention_scale((config.hidden / config.heads) as f64);
    }
    config.logit_softcap = softcap(fields.optional_number("final_logit_softcapping")?)?;
    Ok(config)
}

/// `sliding_window_pattern`: absent, a number, or one boolean a layer.
fn gguf_slides(metadata: &Metadata, layers: usize) -> Result<Vec<bool>> {
    use crate::load::gguf::Value;
    let key = "gemma3.attention.sliding_window_pattern";
    match metadata.get(key) {
        None => Ok(alternate(layers, PATTERN)),
        Some(Value::Int(n)) if *n > 0 => Ok(alternate(layers, usize::try_from(*n).unwrap_or(usize::MAX))),
        Some(Value::Ints(list)) if list.len() == layers => Ok(list.iter().map(|s| *s != 0).collect()),
        Some(_) => Err(Error::bad_data(format!("{key} must be a number above 0 or {layers} booleans"))),
    }
}

#[cfg(test)]
#[path = "gemma3_tests.rs"]
mod tests;
