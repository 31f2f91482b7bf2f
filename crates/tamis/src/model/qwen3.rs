//! Qwen3, dense: Qwen2 without the biases, with an RMS norm on every query and key head,
//! and a head width of its own. Knows no mixture of experts.
//!
//! Sources: arXiv 2505.09388; transformers `configuration_qwen3.py`.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, LLAMA_NAMES, NormStorage};
use super::kin::{self, Defaults};
use super::{Architecture, Config, llama};
use crate::error::Result;
use crate::load::gguf::Metadata;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Qwen3,
    hf_types: &["qwen3"],
    gguf_name: Some("qwen3"),
    names: &LLAMA_NAMES,
    norms: NormStorage::AsUsed,
    gguf_rotary: GgufRotary::Halves,
    from_hf,
    from_gguf,
};

const DEFAULTS: Defaults = Defaults {
    architecture: Architecture::Qwen3,
    kv_heads: 32,
    head_dim: Some(128),
    context: 32_768,
    tied: false,
};

/// Configuration from `config.json`.
fn from_hf(json: &Value) -> Result<Config> {
    let config = kin::from_hf(json, DEFAULTS)?;
    Ok(Config { qk_norm: true, layers: kin::qwen_layers(json, config.layers.len())?, ..config })
}

/// Configuration from GGUF metadata.
fn from_gguf(metadata: &Metadata) -> Result<Config> {
    Ok(Config { architecture: Architecture::Qwen3, qk_norm: true, ..llama::from_gguf(metadata)? })
}

#[cfg(test)]
mod tests {
    use super::super::golden_configs::{read, same_in_all_forms};
    use super::*;

    #[test]
    fn reads_the_golden_model() {
        let config = same_in_all_forms("qwen3");
        assert_eq!((config.architecture, config.qk_norm, config.tied), (Architecture::Qwen3, true, false));
        assert_eq!((config.heads, config.head_dim, config.hidden), (4, 10, 32));
        assert!((config.attention_scale - 10f32.powf(-0.5)).abs() < 1e-7);
    }

    #[test]
    fn defaults_are_those_of_the_class() {
        let mut json = read("qwen3/config.json");
        for key in ["head_dim", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings"] {
            json.as_object_mut().unwrap().remove(key);
        }
        json["num_attention_heads"] = 64.into();
        let config = from_hf(&json).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.context, config.tied), (128, 32, 32_768, false));
        assert!((config.attention_scale - 128f32.powf(-0.5)).abs() < 1e-7);
        json["num_key_value_heads"] = Value::Null;
        assert_eq!(from_hf(&json).unwrap().kv_heads, 64);
    }
}
