//! Test support: the configurations of the golden models (`tests/golden/README.md`).

use std::path::Path;

use serde_json::Value;

use super::hf_config::to_hf;
use super::{Architecture, Config};
use crate::disk::read_small;

/// A JSON file below `tests/golden/models`.
pub(super) fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(file);
    serde_json::from_slice(&read_small(&path, 1 << 20).unwrap()).unwrap()
}

/// The configuration of a model, which its transformers 5 file, its transformers 4 file and
/// what [`to_hf`] writes must agree on.
pub(super) fn same_in_all_forms(model: &str) -> Config {
    let config = Config::from_hf(&read(&format!("{model}/config.json"))).unwrap();
    assert_eq!(config, Config::from_hf(&read(&format!("{model}/config.legacy.json"))).unwrap());
    if config.architecture != Architecture::Opt {
        assert_eq!(config, Config::from_hf(&Value::Object(to_hf(&config).unwrap())).unwrap());
    }
    config
}

#[test]
fn llama_models_read_alike_in_all_forms() {
    for model in ["llama-gqa", "llama3-rope", "llama3-8k", "llama-bias", "smollm2-like"] {
        assert_eq!(same_in_all_forms(model).architecture, Architecture::Llama);
    }
}
