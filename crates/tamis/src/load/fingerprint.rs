//! Identities of a model: a cheap one, enough to notice that other files lie there now, and one that no change escapes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::disk::DataFile;
use crate::disk::digest::{sha256, sha256_file};
use crate::error::Result;

/// Bytes of each file that are hashed: its header, and the first tensors with it.
const HASHED: usize = 1 << 20;

/// Text files of a folder that change what a model does.
const TEXT_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// SHA-256, in hex, over name, size and first MiB of every file, in name order. Weights
/// that change in place past that, at the same size, are not seen.
pub(super) fn fingerprint(model: &Path, weights: impl Iterator<Item = PathBuf>) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files(model, weights) {
        let file = DataFile::open(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(file.len().to_le_bytes());
        hash.update(file.read::<u8>(0, HASHED.min(usize::try_from(file.len()).unwrap_or(HASHED)))?);
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// SHA-256, in hex, over the digests of all bytes of every file, in name order.
pub(super) fn digest(model: &Path, weights: impl Iterator<Item = PathBuf>) -> Result<String> {
    let digests: Result<Vec<String>> =
        files(model, weights).iter().map(|path| Ok(sha256_file(path)?.0)).collect();
    Ok(sha256(digests?.concat().as_bytes()))
}

/// The files of a model that decide what it does.
pub(super) fn files(model: &Path, weights: impl Iterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    let mut files: BTreeSet<PathBuf> = weights.collect();
    files.extend(TEXT_FILES.iter().map(|name| model.join(name)).filter(|path| path.is_file()));
    files
}
