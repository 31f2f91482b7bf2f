//! Replays the seed corpora of `fuzz/`: files named `ok_` are read, `bad_` ones refused as
//! bad data, and nothing panics. What a fuzzer finds is added under a plain name.

use std::path::Path;

use tamis::{Kind, Result};

use crate::fuzz;

fn replay(target: &str, entry: impl Fn(&[u8]) -> Result<()>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let outcome = entry(&std::fs::read(&path).unwrap());
        match name.split('_').next() {
            Some("ok") => outcome.unwrap_or_else(|e| panic!("{name}: {e}")),
            Some("bad") => {
                let error = outcome.expect_err(&name);
                assert!(matches!(error.kind(), Kind::BadData | Kind::Recipe), "{name}: {error}");
            }
            _ => fuzz::check(outcome),
        }
        seen += 1;
    }
    assert!(seen > 5, "{target}: {seen} files");
}

#[test]
fn safetensors_headers() {
    replay("safetensors", fuzz::safetensors);
}

#[test]
fn shard_indices() {
    replay("index", fuzz::index);
}

#[test]
fn gguf_headers() {
    replay("gguf", fuzz::gguf);
}

#[test]
fn chat_templates() {
    replay("chat", fuzz::chat);
}

#[test]
fn manifests() {
    replay("artifact", fuzz::artifact);
}

#[test]
fn recipes() {
    replay("recipe", fuzz::recipe);
}

#[test]
fn tokenizers() {
    replay("tokenizer", fuzz::tokenizer);
}

#[test]
fn adapters() {
    replay("adapter", fuzz::adapter);
}

#[test]
fn texts() {
    replay("text", fuzz::text);
}

#[test]
fn unfinished_runs() {
    replay("runs", fuzz::runs);
}
