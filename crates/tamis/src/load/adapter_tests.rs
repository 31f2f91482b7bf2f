//! Damaged and foreign adapters are refused with file, tensor and a next step.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::load::Checkpoint;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn config(model: &str) -> Config {
    Checkpoint::open(golden("models").join(model).to_str().unwrap()).unwrap().config().clone()
}

/// A copy of the golden adapter with other settings and another file name of a tensor.
fn changed(folder: &Path, settings: &Value, from: &str, to: &str) {
    let source = golden("adapters/llama-gqa");
    let mut config: Value = serde_json::from_slice(&fs::read(source.join(ADAPTER_CONFIG)).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    fs::write(folder.join(ADAPTER_CONFIG), config.to_string()).unwrap();
    let bytes = fs::read(source.join(ADAPTER_MODEL)).unwrap();
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    let bytes = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
    fs::write(folder.join(ADAPTER_MODEL), bytes).unwrap();
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_their_place() {
    let llama = config("llama-gqa");
    let same = ("q_proj", "q_proj");
    let cases = [
        (json!({}), ("layers.1.self_attn.q_proj.lora_A", "layers.7.self_attn.q_proj.lora_A"), "layers.7"),
        (json!({}), ("layers.1.self_attn.q_proj.lora_A", "layers.1.self_attn.q_proj.lora_C"), "lora_C"),
        (json!({"target_modules": ["q_proj", "v_proj", "o_proj"]}), same, "down_proj"),
        (json!({"target_modules": "all-linear"}), same, "gate_proj"),
        (json!({"target_modules": ["fc1"]}), same, "target_modules"),
        (json!({"r": 3}), same, "[4, 44]"),
        (json!({"lora_alpha": 1e300}), same, "factor"),
        (json!({"use_dora": true}), same, "use_dora"),
    ];
    for (settings, (from, to), named) in cases {
        let folder = tempfile::tempdir().unwrap();
        changed(folder.path(), &settings, from, to);
        let error = open_adapter(folder.path(), &llama).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.to_string().contains("adapter_"), "no file is named: {error}");
    }
    let error = open_adapter(&golden("adapters/llama-gqa"), &config("opt-125m-like")).unwrap_err();
    assert!(error.to_string().contains("next:"), "{error}");
}

#[test]
fn missing_damaged_and_pickled_files_are_refused() {
    let llama = config("llama-gqa");
    let folder = tempfile::tempdir().unwrap();
    let refused = |says: &str| {
        let error = open_adapter(folder.path(), &llama).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    refused(ADAPTER_CONFIG);
    fs::write(folder.path().join("adapter_model.bin"), b"PK").unwrap();
    refused("pickle");
    changed(folder.path(), &json!({}), "q_proj", "q_proj");
    open_adapter(folder.path(), &llama).unwrap();
    let path = folder.path().join(ADAPTER_MODEL);
    let bytes = fs::read(&path).unwrap();
    for cut in [0, 7, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).unwrap();
        refused(ADAPTER_MODEL);
    }
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, nan).unwrap();
    refused("NaN");
}
