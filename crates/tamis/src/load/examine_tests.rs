//! What is sound and what is not, without a manifest.

use std::path::{Path, PathBuf};

use super::*;
use crate::load::gguf::writer::Writer;
use crate::load::testdata;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn copy(source: &Path, target: &Path) {
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn of(path: &Path) -> Result<Examination> {
    examine(path.to_str().unwrap())
}

/// Makes the last value of a file NaN, whatever its width.
fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].fill(0xff);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_folder_is_read_whole_and_says_what_nobody_knows() {
    let folder = tempfile::tempdir().unwrap();
    copy(&testdata::golden_models().unwrap().join("llama-gqa"), folder.path());
    let found = of(folder.path()).unwrap();
    assert_eq!(found.kind, Examined::HuggingFace);
    assert!(found.tensors > 10 && found.bytes > 1000 && found.hashed.is_empty());
    assert!(found.files.contains(&"config.json".to_owned()), "{:?}", found.files);
    assert_eq!(found.unverified[0], NO_MANIFEST);
    spoil(&folder.path().join("model.safetensors"));
    let error = of(folder.path()).unwrap_err();
    assert!(error.to_string().contains("NaN") && error.names_file(), "{error}");
    assert_eq!(error.kind(), Kind::BadData);
}

#[test]
fn a_gguf_file_is_read_whole() {
    let path = testdata::golden_models().unwrap().join("llama-gqa/model.gguf");
    let found = of(&path).unwrap();
    assert_eq!((found.kind, found.files.len()), (Examined::Gguf, 1));
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("m.gguf");
    std::fs::copy(&path, &copied).unwrap();
    spoil(&copied);
    assert_eq!(of(&copied).unwrap_err().kind(), Kind::BadData);
    std::fs::write(&copied, Writer::new().finish()).unwrap();
    assert_eq!(of(&copied).unwrap_err().kind(), Kind::BadData);
}

#[cfg(unix)]
#[test]
fn a_blob_of_the_hub_is_held_against_its_name() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/x"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    copy(&testdata::golden_models().unwrap().join("llama-gqa"), &snapshot);
    let weights = snapshot.join("model.safetensors");
    let blob = blobs.join(sha256_file(&weights).unwrap().0);
    std::fs::rename(&weights, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, &weights).unwrap();
    assert_eq!(of(&snapshot).unwrap().hashed, ["model.safetensors"]);
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let error = of(&snapshot).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
}

#[test]
fn an_adapter_is_sound_by_itself() {
    let source = std::fs::read_dir(golden("adapters")).unwrap().next().unwrap().unwrap().path();
    let folder = tempfile::tempdir().unwrap();
    copy(&source, folder.path());
    let found = of(folder.path()).unwrap();
    assert!(found.kind == Examined::Adapter && found.tensors > 1 && found.files.len() == 2, "{found:?}");
    spoil(&folder.path().join(ADAPTER_MODEL));
    let error = of(folder.path()).unwrap_err();
    assert!(error.names_file() && error.kind() == Kind::BadData, "{error}");
}
