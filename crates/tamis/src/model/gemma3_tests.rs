//! Tests of Gemma 3's configuration.

use serde_json::json;

use super::super::golden_configs::{read, same_in_all_forms};
use super::*;

const ROPE: Rope = Rope { theta: 10_000.0, scaling: RopeScaling::Default };

fn windows(config: &Config) -> Vec<(Option<usize>, usize)> {
    config.layers.iter().map(|l| (l.window, l.rope)).collect()
}

#[test]
fn reads_the_golden_model() {
    let config = same_in_all_forms("gemma3");
    assert_eq!((config.architecture, config.placement), (Architecture::Gemma3, NormPlacement::Both));
    assert_eq!((config.qk_norm, config.tied, config.activation), (true, true, Activation::GeGluTanh));
    assert_eq!((config.head_dim, config.kv_heads, config.logit_softcap), (10, 1, None));
    assert!((config.embedding_scale - 28f32.sqrt()).abs() < 1e-6);
    assert!((config.attention_scale - 10f32.powf(-0.5)).abs() < 1e-7);
    let local = (Some(5), LOCAL);
    assert_eq!(windows(&config), [local, local, local, local, local, (None, GLOBAL), local]);
    assert_eq!(config.positions, Positions::Rotary(vec![Rope { theta: 1e6, ..ROPE }, ROPE]));
}

#[test]
fn reads_scaling_softcap_and_layer_types() {
    let config = same_in_all_forms("gemma3-scaled");
    assert_eq!(windows(&config), [(Some(5), LOCAL), (None, GLOBAL), (Some(5), LOCAL)]);
    let global = Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } };
    assert_eq!(config.positions, Positions::Rotary(vec![global, ROPE]));
    assert_eq!(config.logit_softcap, Some(6.0));
    assert!((config.attention_scale - 17f32.powf(-0.5)).abs() < 1e-7);
}

#[test]
fn defaults_are_those_of_the_class() {
    let keep = ["hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let mut json = read("gemma3/config.json");
    json.as_object_mut().unwrap().retain(|key, _| keep.contains(&key.as_str()));
    let config = from_hf(&json).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.context, config.tied), (256, 4, 131_072, true));
    assert_eq!(config.attention_scale, 0.0625);
    assert_eq!((windows(&config)[0], windows(&config)[5]), ((Some(4096), LOCAL), (None, GLOBAL)));
    assert_eq!(config.positions, Positions::Rotary(vec![Rope { theta: 1e6, ..ROPE }, ROPE]));
}

#[test]
fn what_is_not_computed_is_refused() {
    for (key, value) in [
        ("text_config", json!({})),
        ("use_bidirectional_attention", json!(true)),
        ("attn_logit_softcapping", json!(50.0)),
        ("hidden_activation", json!("relu")),
        ("layer_types", json!(["full_attention"])),
        ("query_pre_attn_scalar", json!(0)),
        ("rope_parameters", json!("linear")),
    ] {
        let mut json = read("gemma3/config.json");
        json[key] = value;
        let error = from_hf(&json).unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains(key), "{error}");
    }
}

fn metadata(extra: &[(&str, crate::load::gguf::Value)]) -> Metadata {
    use crate::load::gguf::Value;
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::Text("gemma3".into()));
    for (key, n) in [
        ("embedding_length", 28),
        ("block_count", 7),
        ("feed_forward_length", 36),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 10),
        ("attention.value_length", 10),
        ("attention.sliding_window", 5),
        ("context_length", 64),
        ("vocab_size", 67),
    ] {
        metadata.set(&format!("gemma3.{key}"), Value::Int(n));
    }
    metadata.set("gemma3.attention.layer_norm_rms_epsilon", Value::Float(1e-6));
    metadata.set("gemma3.rope.freq_base", Value::Float(1e6));
    extra.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    metadata
}

#[test]
fn gguf_metadata_gives_the_same_configuration() {
    let config = Config { tied: true, ..Config::from_gguf(&metadata(&[])).unwrap() };
    assert_eq!(config, same_in_all_forms("gemma3"));
}

#[test]
fn gguf_patterns_and_scaling() {
    use crate::load::gguf::Value;
    let key = "gemma3.attention.sliding_window_pattern";
    let config = from_gguf(&metadata(&[(key, Value::Int(2))])).unwrap();
    assert_eq!(windows(&config)[..3], [(Some(5), LOCAL), (None, GLOBAL), (Some(5), LOCAL)]);
    let listed = Value::Ints(vec![0, 1, 1, 1, 1, 1, 0]);
    let config = from_gguf(&metadata(&[(key, listed)])).unwrap();
    assert_eq!(windows(&config)[..2], [(None, GLOBAL), (Some(5), LOCAL)]);
    for bad in [Value::Int(0), Value::Ints(vec![1]), Value::Bool(true)] {
        assert!(from_gguf(&metadata(&[(key, bad)])).unwrap_err().to_string().contains(key));
    }
    let scaled = [
        ("gemma3.rope.scaling.type", Value::Text("linear".into())),
        ("gemma3.rope.scaling.factor", Value::Float(8.0)),
    ];
    let config = from_gguf(&metadata(&scaled)).unwrap();
    let global = Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } };
    assert_eq!(config.positions, Positions::Rotary(vec![global, ROPE]));
}
