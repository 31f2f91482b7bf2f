//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, which the reader takes from the
//! tensors. Knows no vision or mixture-of-experts variant.
//!
//! Sources: arXiv 2407.10671, 2412.15115; transformers `configuration_qwen2.py`.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, LLAMA_NAMES, NormStorage};
use super::kin::{self, Defaults};
use super::{Architecture, Config, llama};
use crate::error::Result;
use crate::load::gguf::Metadata;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Qwen2,
    hf_types: &["qwen2"],
    gguf_name: Some("qwen2"),
    names: &LLAMA_NAMES,
    norms: NormStorage::AsUsed,
    gguf_rotary: GgufRotary::Halves,
    from_hf,
    from_gguf,
};

const DEFAULTS: Defaults = Defaults {
    architecture: Architecture::Qwen2,
    kv_heads: 32,
    head_dim: None,
    context: 32_768,
    tied: false,
};

/// Configuration from `config.json`.
fn from_hf(json: &Value) -> Result<Config> {
    let config = kin::from_hf(json, DEFAULTS)?;
    Ok(Config { layers: kin::qwen_layers(json, config.layers.len())?, ..config })
}

/// Configuration from GGUF metadata.
fn from_gguf(metadata: &Metadata) -> Result<Config> {
    Ok(Config { architecture: Architecture::Qwen2, ..llama::from_gguf(metadata)? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::config::Norm;
    use super::super::golden_configs::{read, same_in_all_forms};
    use super::*;

    #[test]
    fn reads_the_golden_model() {
        let config = same_in_all_forms("qwen2");
        assert_eq!((config.architecture, config.tied), (Architecture::Qwen2, true));
        assert_eq!(config.norm, Norm::Rms { eps: 1e-6 });
        assert!(config.layers.iter().all(|l| l.window.is_none()));
    }

    #[test]
    fn windows_need_use_sliding_window() {
        let mut json = read("qwen2/config.legacy.json");
        json["sliding_window"] = json!(7);
        json["max_window_layers"] = json!(1);
        let windows =
            |json: &Value| from_hf(json).unwrap().layers.iter().map(|l| l.window).collect::<Vec<_>>();
        assert_eq!(windows(&json), [None, None]);
        json["use_sliding_window"] = json!(true);
        assert_eq!(windows(&json), [None, Some(7)]);
        json["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(windows(&json), [Some(7), None]);
    }

    #[test]
    fn messages_name_the_key_and_the_next_step() {
        for (key, value) in [
            ("hidden_size", json!("wide")),
            ("vocab_size", Value::Null),
            ("num_hidden_layers", json!(0)),
            ("rope_parameters", json!("linear")),
        ] {
            let mut json = read("qwen2/config.json");
            json[key] = value;
            let text = from_hf(&json).unwrap_err().to_string();
            assert!(text.contains(key) && text.contains("next:"), "{text}");
        }
        let mut json = read("qwen2/config.json");
        json["rope_parameters"] = json!({"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0});
        assert!(from_hf(&json).unwrap_err().to_string().contains("yarn"));
        json["rope_parameters"] = Value::Null;
        json["num_attention_heads"] = json!(5);
        assert!(from_hf(&json).unwrap_err().to_string().contains("hidden_size"));
    }

    #[test]
    fn impossible_windows_are_refused() {
        let mut json = read("qwen2/config.json");
        for types in [
            json!(["full_attention"]),
            json!(["full_attention", "linear_attention"]),
            json!("full_attention"),
            json!(["sliding_attention", "full_attention"]),
        ] {
            json["layer_types"] = types;
            let error = from_hf(&json).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains("layer_types"), "{error}");
        }
    }
}
