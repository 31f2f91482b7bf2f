//! A [`Config`] written as a Hugging Face `config.json`, for models that came without
//! one (GGUF). Reading it back gives the same `Config`.
//!
//! Source: the configuration classes of transformers 5 (`LlamaConfig`, `MistralConfig`,
//! `Qwen2Config`, `Qwen3Config`, `Gemma3TextConfig`).

use serde_json::{Map, Value, json};

use super::Architecture;
use super::config::{Config, Norm, Positions, Rope, RopeScaling};
use crate::error::{Error, Result};

/// `config.json` of a decoder. Errors: an architecture that only Hugging Face folders hold.
pub fn to_hf(config: &Config) -> Result<Map<String, Value>> {
    let (model_type, class) = match config.architecture {
        Architecture::Llama => ("llama", "LlamaForCausalLM"),
        Architecture::Mistral => ("mistral", "MistralForCausalLM"),
        Architecture::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Architecture::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        Architecture::Gemma3 => ("gemma3_text", "Gemma3ForCausalLM"),
        Architecture::Opt => {
            return Err(Error::usage("an OPT model without a config.json")
                .next("give the original Hugging Face folder"));
        }
    };
    let Norm::Rms { eps } = config.norm else {
        return Err(Error::usage("a layer norm in a model without a config.json")
            .next("give the original Hugging Face folder"));
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("architectures", json!([class]));
    put("model_type", json!(model_type));
    put("vocab_size", json!(config.vocab));
    put("hidden_size", json!(config.hidden));
    put("intermediate_size", json!(config.intermediate));
    put("num_hidden_layers", json!(config.layers.len()));
    put("num_attention_heads", json!(config.heads));
    put("num_key_value_heads", json!(config.kv_heads));
    put("head_dim", json!(config.head_dim));
    put("max_position_embeddings", json!(config.context));
    put("tie_word_embeddings", json!(config.tied));
    put("rms_norm_eps", short(eps));
    let gemma = config.architecture == Architecture::Gemma3;
    put(
        if gemma { "hidden_activation" } else { "hidden_act" },
        json!(if gemma { "gelu_pytorch_tanh" } else { "silu" }),
    );
    put("torch_dtype", json!("float32"));
    rotary(config, &mut map);
    windows(config, &mut map);
    if gemma {
        map.insert("query_pre_attn_scalar".into(), json!(f64::from(config.attention_scale).powi(-2).round()));
        map.insert("attn_logit_softcapping".into(), json!(config.attention_softcap));
        map.insert("final_logit_softcapping".into(), json!(config.logit_softcap));
    }
    Ok(map)
}

/// The shortest decimal that is this f32, so that 1e-5 does not become 9.999999747e-6.
fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}

fn rotary(config: &Config, map: &mut Map<String, Value>) {
    let Positions::Rotary(ropes) = &config.positions else { return };
    let Some(rope) = ropes.first() else { return };
    map.insert("rope_theta".into(), json!(rope.theta));
    if let Some(scaling) = scaling(rope) {
        map.insert("rope_scaling".into(), scaling);
    }
    if let Some(local) = ropes.get(1) {
        map.insert("rope_local_base_freq".into(), json!(local.theta));
    }
}

fn scaling(rope: &Rope) -> Option<Value> {
    match rope.scaling {
        RopeScaling::Default => None,
        RopeScaling::Linear { factor } => Some(json!({"rope_type": "linear", "factor": factor})),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context as u64,
        })),
    }
}

fn windows(config: &Config, map: &mut Map<String, Value>) {
    let window = config.layers.iter().find_map(|layer| layer.window);
    let Some(window) = window else { return };
    map.insert("sliding_window".into(), json!(window));
    if config.architecture != Architecture::Mistral {
        let kind = |sliding: bool| if sliding { "sliding_attention" } else { "full_attention" };
        let kinds: Vec<_> = config.layers.iter().map(|l| kind(l.window.is_some())).collect();
        map.insert("layer_types".into(), json!(kinds));
        map.insert("use_sliding_window".into(), json!(true));
    }
}
