//! What the families that grew out of Llama read beyond Llama's own keys: their defaults
//! and their sliding windows. Defaults are those of each family's configuration class in
//! transformers 5.23: what a saved file leaves out. Knows no family.

use serde_json::Value;

use super::config::{Config, Layer};
use super::fields::HfFields;
use super::{Architecture, llama};
use crate::error::{Error, Result};

/// What a family's configuration class holds where the file has no such key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// Family.
    pub(super) architecture: Architecture,
    /// `num_key_value_heads`; a `null` in the file means as many as heads.
    pub(super) kv_heads: usize,
    /// `head_dim`, where it does not follow from the widths.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub(super) context: usize,
    /// `tie_word_embeddings`.
    pub(super) tied: bool,
}

/// Llama's reading of `json`, with another family's defaults for absent keys.
pub(super) fn from_hf(json: &Value, defaults: Defaults) -> Result<Config> {
    let mut filled = json.clone();
    if let Some(map) = filled.as_object_mut() {
        let mut fill = |key: &str, value: Value| {
            map.entry(key).or_insert(value);
        };
        fill("num_key_value_heads", defaults.kv_heads.into());
        fill("max_position_embeddings", defaults.context.into());
        fill("tie_word_embeddings", defaults.tied.into());
        if let Some(width) = defaults.head_dim {
            fill("head_dim", width.into());
        }
    }
    Ok(Config { architecture: defaults.architecture, ..llama::from_hf(&filled)? })
}

/// `1 / sqrt(width)`.
pub(super) fn attention_scale(width: f64) -> f32 {
    (1.0 / width.sqrt()) as f32
}

/// Which layers slide, by `layer_types`; none where the file has no such list.
pub(super) fn sliding_layers(fields: &HfFields, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(list) = fields.get("layer_types") else { return Ok(None) };
    let refuse = |problem: String| Error::bad_data(format!("configuration: layer_types {problem}"));
    let kinds = list.as_array().ok_or_else(|| refuse("must be a list of strings".into()))?;
    if kinds.len() != layers {
        return Err(refuse(format!("has {} entries for {layers} layers", kinds.len())));
    }
    let slides = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(refuse(format!("holds {kind}; full_attention and sliding_attention are supported"))),
    };
    kinds.iter().map(slides).collect::<Result<_>>().map(Some)
}

/// `sliding_window`: absent means the class's default, `null` none.
pub(super) fn window(json: &Value, default: usize) -> Result<Option<usize>> {
    match json.get("sliding_window") {
        None => Ok(Some(default)),
        Some(_) => HfFields::new(json).optional_size("sliding_window"),
    }
}

/// The windows of Qwen2 and Qwen3: none unless `use_sliding_window` says so; then on the
/// layers that `layer_types` names or, without it, from `max_window_layers` on.
pub(super) fn qwen_layers(json: &Value, layers: usize) -> Result<Vec<Layer>> {
    let fields = HfFields::new(json);
    let window = if fields.flag_or("use_sliding_window", false)? { window(json, 4096)? } else { None };
    let first = match fields.get("max_window_layers") {
        None => 28,
        Some(value) => value.as_u64().ok_or_else(|| {
            Error::bad_data(format!("configuration: max_window_layers must be a whole number, not {value}"))
        })?,
    };
    let slides = sliding_layers(&fields, layers)?;
    let slides =
        slides.unwrap_or_else(|| (0..layers as u64).map(|i| window.is_some() && i >= first).collect());
    layers_of(&slides, window)
}

/// One [`Layer`] for each entry, with rotary table 0. Errors: a layer slides without a window.
pub(super) fn layers_of(slides: &[bool], window: Option<usize>) -> Result<Vec<Layer>> {
    if window.is_none() && slides.contains(&true) {
        let problem = "configuration: layer_types has sliding layers, but no sliding_window is in use";
        return Err(
            Error::bad_data(problem).next("set sliding_window, or take the layers out of layer_types")
        );
    }
    Ok(slides.iter().map(|s| Layer { window: window.filter(|_| *s), rope: 0 }).collect())
}
