//! Whole models: what opens, what is refused and how.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::load::folder::tests::{f32s, tiny_llama};
use crate::load::gguf::writer::Writer;
use crate::load::testdata;
use crate::model::architecture::NormStorage;
use crate::units::Alpha;
use crate::{Kind, model::Weight};

fn config() -> serde_json::Value {
    json!({
        "model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": 4,
    })
}

fn folder(config: &serde_json::Value) -> TempDir {
    let folder = tiny_llama(1, &[]);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn open_path(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path.to_str().unwrap())
}

#[test]
fn a_folder_opens_and_has_an_identity() {
    let folder = folder(&config());
    let model = open_path(folder.path()).unwrap();
    assert_eq!(model.config().hidden, 4);
    assert_eq!(model.tensors().vector("model.norm.weight").unwrap(), [1.0; 4]);
    let before = model.fingerprint().unwrap();
    assert_eq!(before.len(), 64);
    assert_eq!(before, open_path(folder.path()).unwrap().fingerprint().unwrap());
    std::fs::write(folder.path().join("generation_config.json"), "{}").unwrap();
    assert_ne!(before, model.fingerprint().unwrap());
}

#[test]
fn a_missing_tokenizer_is_said() {
    let folder = folder(&config());
    let error = open_path(folder.path()).unwrap().tokenizer().unwrap_err();
    assert_eq!(error.exit_code(), 66);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    let error = open_path(folder.path()).unwrap().tokenizer().unwrap_err().to_string();
    assert!(error.contains("convert tokenizer.model"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{\"model\": 1}").unwrap();
    assert_eq!(open_path(folder.path()).unwrap().tokenizer().unwrap_err().exit_code(), 65);
}

#[test]
fn other_things_are_refused_by_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (bytes, word) in [
        (&b"\x80\x02}q\0."[..], "pickle"),
        (b"PK\x03\x04....", "pickle"),
        (b"\x40\0\0\0\0\0\0\0{\"a\"", "config.json"),
        (b"", "empty"),
        (b"hello, world, hello", "not a model format"),
        (b"GGUF", "ends inside"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open_path(&path).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = Checkpoint::open("/no/such/model").unwrap_err();
    assert_eq!(error.exit_code(), 66);
    let error = open_path(folder.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.to_string().contains("model.gguf"), "{error}");
}

#[test]
fn configurations_that_cannot_be_used_are_refused() {
    for (key, value, word) in [
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
        ("model_type", json!("mamba"), "mamba"),
        ("num_hidden_layers", json!(1u64 << 60), "num_hidden_layers"),
    ] {
        let mut config = config();
        config[key] = value;
        let error = open_path(folder(&config).path()).unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(word) && error.to_string().contains("config.json"), "{error}");
    }
    let broken = folder(&json!(7));
    assert_eq!(open_path(broken.path()).unwrap_err().exit_code(), 65);
    std::fs::write(broken.path().join("config.json"), "{\n\"a\": }").unwrap();
    assert!(open_path(broken.path()).unwrap_err().to_string().contains("config.json:2"));
}

fn tiny_gguf() -> Writer {
    let mut writer = Writer::new().text("general.architecture", "llama");
    for (key, n) in [("embedding_length", 32), ("feed_forward_length", 32), ("block_count", 1)] {
        writer = writer.int(&format!("llama.{key}"), n);
    }
    writer
        .int("llama.attention.head_count", 2)
        .int("llama.vocab_size", 4)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
}

/// Rows of 32 f32 whose values are the row's number.
fn numbered(rows: usize) -> Vec<u8> {
    f32s(&(0..rows * 32).map(|i| (i / 32) as f32).collect::<Vec<_>>())
}

/// With every tensor that it needs and `writer` has not.
fn whole_gguf(mut writer: Writer, has: &[&str]) -> Writer {
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        if !has.contains(&name) {
            writer = writer.tensor(&format!("blk.0.{name}.weight"), &[32, 32], 0, &numbered(32));
        }
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        writer = writer.tensor(&format!("{name}.weight"), &[32], 0, &numbered(1));
    }
    writer.tensor("token_embd.weight", &[32, 4], 0, &numbered(4))
}

fn open_gguf_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    open_path(file.path())
}

#[test]
fn gguf_rows_are_put_back_and_nan_is_found() {
    let writer = whole_gguf(tiny_gguf(), &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), writer.clone().finish()).unwrap();
    let model = open_path(file.path()).unwrap();
    assert!(model.config().tied);
    let first = |name: &str| {
        let w = model.tensors().weight(&format!("model.layers.0.self_attn.{name}.weight")).unwrap();
        w.to_f32(Alpha::ZERO).chunks(32).map(|row| row[0] as usize).collect::<Vec<_>>()
    };
    let halves = |head: usize| (0..16).map(move |i| head * 16 + i % 8 * 2 + i / 8);
    assert_eq!(first("q_proj"), halves(0).chain(halves(1)).collect::<Vec<_>>());
    assert_eq!(first("v_proj"), (0..32).collect::<Vec<_>>());

    let mut block = vec![0u8; 4 * 18];
    block[..2].copy_from_slice(&[0, 0x7e]); // an f16 NaN
    let bytes = writer.tensor("output.weight", &[32, 4], 2, &block).finish();
    std::fs::write(file.path(), bytes).unwrap();
    let model = open_path(file.path()).unwrap();
    assert!(!model.config().tied);
    let error = model.tensors().weight("lm_head.weight").unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("output.weight"), "{error}");
}

#[test]
fn gguf_refusals() {
    for (bytes, word) in [
        (Writer::new().text("general.architecture", "mamba").finish(), "mamba"),
        (Writer::new().finish(), "general.architecture"),
        (tiny_gguf().int("llama.expert_count", 8).finish(), "experts"),
        (tiny_gguf().int("split.count", 2).finish(), "split"),
        (tiny_gguf().text("llama.rope.scaling.type", "yarn").finish(), "yarn"),
        (whole_gguf(tiny_gguf(), &["ffn_up"]).finish(), "mlp.up_proj.weight: missing"),
        (tiny_gguf().tensor("rope_freqs.weight", &[8], 0, &f32s(&[3.0; 8])).finish(), "no known rule"),
        (tiny_gguf().tensor("blk.0.attn_q.weight", &[32, 24], 0, &numbered(24)).finish(), "whole heads"),
    ] {
        let error = open_gguf_bytes(&bytes).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = open_gguf_bytes(&whole_gguf(tiny_gguf(), &[]).finish()).unwrap().tokenizer().unwrap_err();
    assert_eq!(error.exit_code(), 66);
}

#[test]
fn llama3_rotary_factors_are_recognised() {
    let plain = Config::from_hf(&json!({
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": 4, "rope_theta": 5e5,
    }));
    let mut config = plain.unwrap();
    let Positions::Rotary(ropes) = config.positions.clone() else { unreachable!() };
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    let scaled = crate::model::config::Rope { scaling, ..ropes[0] };
    let (plain, with) = (ropes[0].inverse_frequencies(128), scaled.inverse_frequencies(128));
    let factors: Vec<f32> = plain.iter().zip(&with).map(|(p, s)| (p / s) as f32).collect();
    scale_rope(&mut config, &factors).unwrap();
    assert_eq!(config.positions, Positions::Rotary(vec![scaled]));
}

/// Folders that hold one model in both formats (`tests/golden/models`).
#[test]
fn both_formats_of_a_model_are_one_model() {
    let Some(root) = testdata::golden_models() else { return };
    let mut seen = 0;
    for name in ["llama-gqa", "qwen2", "qwen3", "gemma3"] {
        let folder = root.join(name);
        let gguf = folder.join("model.gguf");
        let (Ok(ours), true) = (open_path(&folder), gguf.exists()) else {
            eprintln!("SKIPPED: {name} has no GGUF or its family is not there");
            continue;
        };
        let theirs = open_path(&gguf).unwrap();
        assert_eq!(ours.config(), theirs.config(), "{name}");
        let names = |c: &Checkpoint| c.tensors().tensors().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "{name}");
        for tensor in names(&ours) {
            let read = |c: &Checkpoint| match c.tensors().tensors()[&tensor].shape.len() {
                // a norm stored as `w - 1` is one rounding away from `w`; what is used is equal
                1 if c.config().architecture.family().norms == NormStorage::MinusOne => {
                    c.tensors().vector(&tensor).unwrap().iter().map(|w| w + 1.0).collect()
                }
                1 => c.tensors().vector(&tensor).unwrap(),
                _ => Weight::to_f32(&c.tensors().weight(&tensor).unwrap(), Alpha::ZERO),
            };
            assert_eq!(read(&ours), read(&theirs), "{name} {tensor}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn every_golden_folder_of_a_known_family_opens() {
    let Some(root) = testdata::golden_models() else { return };
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let json = read_json(&folder.join("config.json")).unwrap();
        let legacy = read_json(&folder.join("config.legacy.json")).unwrap();
        if Architecture::from_hf_type(json["model_type"].as_str().unwrap()).is_err() {
            eprintln!("SKIPPED: {}: family is not there", folder.display());
            continue;
        }
        open_path(&folder).unwrap();
        assert_eq!(
            Config::from_hf(&json).unwrap(),
            Config::from_hf(&legacy).unwrap(),
            "{}",
            folder.display()
        );
    }
}
