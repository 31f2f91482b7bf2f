//! Mistral: Llama with a sliding window over all layers (later releases have none).
//! Knows neither the window patterns of Ministral nor mixtures of experts.
//!
//! Sources: arXiv 2310.06825; transformers `configuration_mistral.py`. Its GGUF files
//! call themselves `llama` and are read as such.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, LLAMA_NAMES, NormStorage};
use super::config::Layer;
use super::kin::{self, Defaults};
use super::{Architecture, Config, llama};
use crate::error::Result;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Mistral,
    hf_types: &["mistral"],
    gguf_name: None,
    names: &LLAMA_NAMES,
    norms: NormStorage::AsUsed,
    gguf_rotary: GgufRotary::Interleaved,
    from_hf,
    from_gguf: llama::from_gguf,
};

const DEFAULTS: Defaults = Defaults {
    architecture: Architecture::Mistral,
    kv_heads: 8,
    head_dim: None,
    context: 131_072,
    tied: false,
};

/// Configuration from `config.json`.
fn from_hf(json: &Value) -> Result<Config> {
    let config = kin::from_hf(json, DEFAULTS)?;
    let layer = Layer { window: kin::window(json, 4096)?, rope: 0 };
    Ok(Config { layers: vec![layer; config.layers.len()], ..config })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::golden_configs::{read, same_in_all_forms};
    use super::*;

    #[test]
    fn reads_the_golden_model() {
        let config = same_in_all_forms("mistral-window");
        assert_eq!((config.architecture, config.heads, config.kv_heads), (Architecture::Mistral, 4, 2));
        assert_eq!((config.hidden, config.head_dim, config.tied), (32, 6, false));
        assert_eq!(config.layers, [Layer { window: Some(5), rope: 0 }; 2]);
    }

    #[test]
    fn a_null_window_is_none_and_an_absent_one_the_default() {
        let mut json = read("mistral-window/config.json");
        json["sliding_window"] = Value::Null;
        assert_eq!(from_hf(&json).unwrap().layers[0].window, None);
        json.as_object_mut().unwrap().remove("sliding_window");
        assert_eq!(from_hf(&json).unwrap().layers[1].window, Some(4096));
        json["sliding_window"] = json!("wide");
        assert!(from_hf(&json).unwrap_err().to_string().contains("sliding_window"));
    }
}
