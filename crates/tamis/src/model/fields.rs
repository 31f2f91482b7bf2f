//! Typed, bounded reading of a model configuration: `config.json` of Hugging Face and
//! GGUF metadata. Knows the spelling of keys that families share, not the families.

use serde_json::Value;

use super::config::{Activation, Rope, RopeScaling};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// Largest width, head count, vocabulary or context that is believed.
const SIZE_LIMIT: usize = 1 << 24;
/// Most layers that are believed.
const LAYERS_LIMIT: usize = 4096;

fn bounded(key: &str, n: usize, limit: usize) -> Result<usize> {
    if (1..=limit).contains(&n) {
        return Ok(n);
    }
    Err(advise(format!("{key} is {n}; 1 to {limit} are possible")))
}

fn missing(key: &str) -> Error {
    advise(format!("{key} is missing"))
}

/// The reader adds the file.
fn advise(problem: String) -> Error {
    Error::bad_data(format!("configuration: {problem}"))
        .next("compare it with the configuration the model was published with, or fetch the model again")
}

/// An object of `config.json`. A key that is `null` counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct HfFields<'a>(&'a Value);

impl<'a> HfFields<'a> {
    /// Reads keys of `object`.
    pub fn new(object: &'a Value) -> Self {
        Self(object)
    }
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }
    /// The object under a key, none if absent.
    pub fn section(&self, key: &str) -> Result<Option<HfFields<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if value.is_object() => Ok(Some(HfFields(value))),
            Some(value) => Err(wrong(key, value, "an object")),
        }
    }
    /// A size of at least 1, none if absent.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
        let n = n.ok_or_else(|| wrong(key, value, "a whole number"))?;
        bounded(key, n, SIZE_LIMIT).map(Some)
    }
    /// A size of at least 1 that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| missing(key))
    }
    /// A size of at least 1.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }
    /// A number of layers that must be there.
    pub fn layers(&self, key: &str) -> Result<usize> {
        bounded(key, self.size(key)?, LAYERS_LIMIT)
    }
    /// A finite number, none if absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().filter(|x| x.is_finite()).map(Some).ok_or_else(|| wrong(key, value, "a number"))
    }
    /// A finite number.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }
    /// `true` or `false`.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
        }
    }
    /// A string, none if absent.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| wrong(key, value, "a string")),
        }
    }
    /// The non-linearity of a gated MLP, by the name in `key`.
    pub fn gated_activation(&self, key: &str, default: &str) -> Result<Activation> {
        match self.text(key)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::SwiGlu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeGluTanh),
            other => Err(Error::bad_data(format!("configuration: {key} {other:?} is not supported"))),
        }
    }
    /// The rotary table. Older files have `rope_theta` at the top and `rope_scaling`
    /// beside it, newer ones both in `rope_parameters`.
    pub fn rope(&self, default_theta: f64) -> Result<Rope> {
        let top_theta = self.number_or("rope_theta", default_theta)?;
        match self.section("rope_parameters")?.or(self.section("rope_scaling")?) {
            None => checked_rope(Rope { theta: top_theta, scaling: RopeScaling::Default }),
            Some(section) => section.rope_section(top_theta, self),
        }
    }
    /// The rotary table of one `rope_parameters` object; `whole` is the configuration
    /// around it, for keys that some files keep there.
    pub fn rope_section(&self, default_theta: f64, whole: &HfFields) -> Result<Rope> {
        let theta = self.number_or("rope_theta", default_theta)?;
        let positive = |key: &str| match self.optional_number(key)? {
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(Error::bad_data(format!("configuration: rope {key} is {x}"))),
            None => Err(missing(key)),
        };
        let kind = self.text("rope_type")?.or(self.text("type")?).unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: positive("factor")? },
            "llama3" => {
                let key = "original_max_position_embeddings";
                let original = match whole.optional_number(key)? {
                    Some(n) if self.get(key).is_none() => n,
                    _ => positive(key)?,
                };
                RopeScaling::Llama3 {
                    factor: positive("factor")?,
                    low_freq_factor: positive("low_freq_factor")?,
                    high_freq_factor: positive("high_freq_factor")?,
                    original_context: original,
                }
            }
            other => return Err(unsupported_rope(other)),
        };
        checked_rope(Rope { theta, scaling })
    }
}

fn wrong(key: &str, value: &Value, what: &str) -> Error {
    let mut text = value.to_string();
    if text.len() > 40 {
        text = text.chars().take(40).collect::<String>() + "...";
    }
    advise(format!("{key} must be {what}, not {text}"))
}

fn unsupported_rope(kind: &str) -> Error {
    Error::bad_data(format!("configuration: rotary scaling {kind:?} is not supported"))
        .next("default, linear and llama3 are; use the model without its context extension")
}

fn checked_rope(rope: Rope) -> Result<Rope> {
    let band = match rope.scaling {
        RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } => low < high,
        _ => true,
    };
    if rope.theta > 1.0 && band {
        return Ok(rope);
    }
    Err(Error::bad_data(format!("configuration: the rotary table {rope:?} is not possible")))
}

/// The metadata keys of one architecture, `{architecture}.{key}`.
#[derive(Debug, Clone, Copy)]
pub struct GgufFields<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> GgufFields<'a> {
    /// Reads keys that begin with the file's `general.architecture`.
    pub fn new(metadata: &'a Metadata) -> Result<Self> {
        let architecture =
            metadata.text("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
        Ok(Self { metadata, architecture })
    }
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }
    /// A size of at least 1, none if absent.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let key = self.key(key);
        self.metadata.usize(&key)?.map(|n| bounded(&key, n, SIZE_LIMIT)).transpose()
    }
    /// A size of at least 1 that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| missing(&self.key(key)))
    }
    /// A size of at least 1.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }
    /// The number of layers.
    pub fn layers(&self) -> Result<usize> {
        bounded("block_count", self.size("block_count")?, LAYERS_LIMIT)
    }
    /// A finite number, none if absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.f64(&self.key(key))
    }
    /// A finite number.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }
    /// A finite number that must be there.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| missing(&self.key(key)))
    }
    /// Entries of the vocabulary.
    pub fn vocab(&self) -> Result<usize> {
        let tokens = self.metadata.texts("tokenizer.ggml.tokens")?.map(<[String]>::len);
        match self.optional_size("vocab_size")?.or(tokens) {
            Some(n) => bounded("vocab_size", n, SIZE_LIMIT),
            None => Err(missing("vocab_size")),
        }
    }
    /// Features a head, and a refusal of rotary tables that cover only part of them.
    pub fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize> {
        let head_dim = match self.optional_size("attention.key_length")? {
            Some(n) => n,
            None => hidden / heads,
        };
        let values = self.size_or("attention.value_length", head_dim)?;
        let rotary = self.size_or("rope.dimension_count", head_dim)?;
        if values != head_dim || rotary != head_dim {
            return Err(Error::bad_data(format!(
                "heads of {head_dim} features with values of {values} and {rotary} rotary features are not supported"
            )));
        }
        Ok(head_dim)
    }
    /// The rotary table. Llama 3's scaling is a tensor and is added by the reader.
    pub fn rope(&self, default_theta: f64) -> Result<Rope> {
        let theta = self.number_or("rope.freq_base", default_theta)?;
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?.unwrap_or("none");
        let scaling = match kind {
            "none" => match self.optional_number("rope.scale_linear")? {
                Some(factor) if factor > 0.0 && factor != 1.0 => RopeScaling::Linear { factor },
                _ => RopeScaling::Default,
            },
            "linear" => RopeScaling::Linear { factor: self.number("rope.scaling.factor")? },
            other => return Err(unsupported_rope(other)),
        };
        checked_rope(Rope { theta, scaling })
    }
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
