//! What a path holds, by content: names only help to word a refusal.

use std::path::{Path, PathBuf};

use super::gguf;
use crate::disk::{DataFile, list};
use crate::error::{Error, Kind, Result};

/// A kind of model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A GGUF file.
    Gguf(PathBuf),
    /// A folder with `config.json`.
    HuggingFace(PathBuf),
    /// A folder that tamis wrote, or another program's in the same packing.
    Artifact(PathBuf),
}

/// Looks at a path.
pub(super) fn sniff(path: &Path) -> Result<Found> {
    if path.is_dir() { folder(path) } else { file(path) }
}

fn folder(path: &Path) -> Result<Found> {
    if crate::artifact::is_artifact(path) {
        return Ok(Found::Artifact(path.to_path_buf()));
    }
    if path.join("config.json").exists() {
        return Ok(Found::HuggingFace(path.to_path_buf()));
    }
    let error = Error::missing("a folder without config.json").file(path);
    match only_gguf(path) {
        Some(file) => Err(error.next(format!("give the GGUF file itself: {}", file.display()))),
        None => Err(error.next("give a folder with config.json and safetensors, or a GGUF file")),
    }
}

fn only_gguf(folder: &Path) -> Option<PathBuf> {
    list(folder).ok()?.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"))
}

fn file(path: &Path) -> Result<Found> {
    let file = DataFile::open(path).map_err(|e| match e.kind() {
        Kind::Missing => e.next("give a model folder, a GGUF file or hf://org/name"),
        _ => e,
    })?;
    let start = file.read::<u8>(0, file.len().min(16) as usize)?;
    if start.starts_with(&gguf::MAGIC) {
        return Ok(Found::Gguf(path.to_path_buf()));
    }
    Err(refusal(path, &start))
}

fn refusal(path: &Path, start: &[u8]) -> Error {
    // Protocol 2 and later pickles begin with 0x80 and the protocol; torch.save writes a zip.
    let pickle = matches!(start, [0x80, 2..=5, ..]) || start.starts_with(b"PK\x03\x04");
    if pickle {
        return pickle_refusal(path);
    }
    // A safetensors header is an object: its first byte, after eight of length, is `{`.
    if start.get(8) == Some(&b'{') {
        return Error::bad_data("one safetensors file is not a model: its config.json is needed")
            .file(path)
            .next("give the folder that holds it");
    }
    if start.is_empty() {
        return Error::bad_data("the file is empty").file(path);
    }
    Error::bad_data("not a model format that tamis knows")
        .file(path)
        .next("give a Hugging Face folder with safetensors, a GGUF file or an artifact of tamis")
}

/// Pickle files run code when they are read, so they are not read.
pub(super) fn pickle_refusal(path: &Path) -> Error {
    Error::bad_data("a pickle file (.bin, .pt, .pth): reading it can run any code, so tamis does not")
        .file(path)
        .next(
            "convert it in a place you trust: AutoModelForCausalLM.from_pretrained(folder)\
             .save_pretrained(out, safe_serialization=True) in Hugging Face transformers",
        )
}
