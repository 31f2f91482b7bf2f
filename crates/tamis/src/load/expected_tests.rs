//! Models whose configuration and weights contradict each other, in every family.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Kind;
use crate::error::{Error, Result};
use crate::load::folder::tests::{Given, f32s, tiny_llama};
use crate::load::{Checkpoint, testdata};

/// A copy of a tiny model with another configuration.
fn changed(model: &str, key: &str, value: Value) -> TempDir {
    let source = testdata::golden_models().unwrap().join(model);
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let config = folder.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json[key] = value;
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, json.to_string()).unwrap();
    folder
}

fn open(folder: &TempDir) -> Result<Checkpoint> {
    Checkpoint::open(folder.path().to_str().unwrap())
}

fn refused(model: &str, key: &str, value: Value) -> Error {
    let error = open(&changed(model, key, value)).expect_err(&format!("{model} with another {key}"));
    assert_eq!(error.kind(), Kind::BadData, "{error}");
    assert!(error.names_file() && error.to_string().contains("not of the same model"), "{error}");
    error
}

#[test]
fn every_size_of_a_configuration_is_held_against_the_weights() {
    for (model, key, value) in [
        ("llama-gqa", "intermediate_size", json!(72)),
        ("llama-gqa", "vocab_size", json!(1000)),
        ("llama-gqa", "num_hidden_layers", json!(1)),
        ("llama-gqa", "num_hidden_layers", json!(9)),
        ("llama-gqa", "num_key_value_heads", json!(1)),
        ("llama-gqa", "tie_word_embeddings", json!(false)),
        ("mistral-window", "head_dim", json!(32)),
        ("qwen2", "hidden_size", json!(1024)),
        ("qwen3", "head_dim", json!(64)),
        ("gemma3", "intermediate_size", json!(3)),
        ("gemma3", "head_dim", json!(2)),
        ("opt-125m-like", "max_position_embeddings", json!(7)),
        ("opt-125m-like", "ffn_dim", json!(8)),
        ("opt-350m-like", "word_embed_proj_dim", json!(8)),
    ] {
        let original =
            std::fs::read(testdata::golden_models().unwrap().join(model).join("config.json")).unwrap();
        let original: Value = serde_json::from_slice(&original).unwrap();
        if original.get(key) != Some(&value) {
            refused(model, key, value);
        }
    }
    assert!(refused("llama-gqa", "num_hidden_layers", json!(1)).to_string().contains("belongs to no block"));
}

#[test]
fn types_are_held_against_what_can_be_read() {
    assert!(open(&tiny_llama(1, &[])).is_ok());
    for name in ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"] {
        let shape: &[usize] = if name.ends_with("norm.weight") { &[4] } else { &[4, 4] };
        let bytes = vec![0; 8 * shape.iter().product::<usize>()];
        let error = open(&tiny_llama(1, &[(name, "F64", shape, bytes)])).unwrap_err().to_string();
        assert!(error.contains("F64") && error.contains(name), "{error}");
    }
    // What plays no role may be of any type.
    assert!(open(&tiny_llama(1, &[("model.inv_freq", "F64", &[2], vec![0; 16])])).is_ok());
}

#[test]
fn a_bias_is_in_every_block_or_in_none() {
    let bias = |index: usize| format!("model.layers.{index}.self_attn.q_proj.bias");
    let (first, second) = (bias(0), bias(1));
    let both: [Given<'_>; 2] =
        [(&first, "F32", &[4], f32s(&[1.0; 4])), (&second, "F32", &[4], f32s(&[1.0; 4]))];
    assert!(open(&tiny_llama(2, &both)).is_ok());
    let error = open(&tiny_llama(2, &both[1..])).unwrap_err().to_string();
    assert!(error.contains(&first) && error.contains("missing"), "{error}");
    let short: [Given<'_>; 1] = [(&first, "F32", &[3], f32s(&[1.0; 3]))];
    assert!(open(&tiny_llama(1, &short)).unwrap_err().to_string().contains("shape [3]"));
}

#[test]
fn qwen2_without_its_biases_is_no_qwen2() {
    let error = open(&changed("llama-gqa", "model_type", json!("qwen2"))).unwrap_err();
    assert!(error.to_string().contains("q_proj.bias"), "{error}");
}
