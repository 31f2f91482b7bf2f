//! Configurations of the family.

use serde_json::json;

use super::*;
use crate::load::gguf;

fn tiny() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "tie_word_embeddings": true, "hidden_act": "silu",
    })
}

#[test]
fn config_json_is_read() {
    let config = Config::from_hf(&tiny()).unwrap();
    assert_eq!((config.hidden, config.intermediate, config.layers.len()), (64, 172, 5));
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (8, 4, 8));
    assert_eq!((config.vocab, config.context, config.tied), (512, 512, true));
    assert_eq!(config.norm, Norm::Rms { eps: 1e-5 });
    assert_eq!(config.attention_scale, (1.0 / 8f64.sqrt()) as f32);
}

#[test]
fn gguf_metadata_gives_the_same() {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", gguf::Value::Text("llama".into()));
    for (key, n) in [
        ("embedding_length", 64),
        ("feed_forward_length", 172),
        ("block_count", 5),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 4),
        ("vocab_size", 512),
        ("context_length", 512),
        ("rope.dimension_count", 8),
    ] {
        metadata.set(&format!("llama.{key}"), gguf::Value::Int(n));
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", gguf::Value::Float(f64::from(1e-5f32)));
    let config = Config::from_gguf(&metadata).unwrap();
    assert_eq!(Config { tied: true, ..config }, Config::from_hf(&tiny()).unwrap());
    metadata.set("llama.rope.dimension_count", gguf::Value::Int(4));
    assert!(Config::from_gguf(&metadata).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(1u64 << 60)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(7)),
        ("hidden_act", json!("relu")),
        ("partial_rotary_factor", json!(0.5)),
        ("model_type", json!("mamba")),
        ("rms_norm_eps", json!("small")),
        ("tie_word_embeddings", json!(1)),
    ] {
        let mut json = tiny();
        json[key] = value;
        let error = Config::from_hf(&json).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{key}: {error}");
    }
    let error = Config::from_hf(&json!({"model_type": "mamba"})).unwrap_err().to_string();
    assert!(error.contains("mamba") && error.contains("llama"), "{error}");
}
