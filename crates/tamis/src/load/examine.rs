//! What can be verified of a model or an adapter that nobody wrote a manifest for: that its files are whole and
//! consistent, that configuration and tensors are of one model, that every value is finite. What its bytes should
//! have been, nobody recorded, except where a file is a blob of the hub's cache and bears its own SHA-256 as name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::adapter::{ADAPTER_CONFIG, ADAPTER_MODEL, read_adapter};
use super::open::TextSide;
use super::{Checkpoint, TensorSource, fingerprint};
use crate::disk;
use crate::disk::digest::sha256_file;
use crate::error::{Error, Kind, Result};

/// What was found to be sound, and what could not be held against anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// What was examined.
    pub kind: Examined,
    /// Its files.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
    /// Tensors that were read, all of whose values are finite.
    pub tensors: usize,
    /// Files of the hub's cache whose SHA-256 is the one that they are named by.
    pub hashed: Vec<String>,
    /// What was not verified, and why.
    pub unverified: Vec<String>,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Examined {
    /// A GGUF file.
    Gguf,
    /// A folder in Hugging Face layout.
    HuggingFace,
    /// A LoRA adapter of PEFT.
    Adapter,
}

const NO_MANIFEST: &str = "no manifest: nobody recorded what these bytes should be";

/// Examines a model (as [`Checkpoint::open`] takes it) or the folder of an adapter; reads all of it. Errors: what
/// is damaged, missing or contradicts itself.
pub fn examine(spec: &str) -> Result<Examination> {
    let folder = Path::new(spec);
    if folder.join(ADAPTER_CONFIG).exists() && !folder.join("config.json").exists() {
        return adapter(folder);
    }
    model(&Checkpoint::open(spec)?)
}

fn model(checkpoint: &Checkpoint) -> Result<Examination> {
    let source = checkpoint.tensors();
    let kind = match checkpoint.text {
        TextSide::Folder(_) => Examined::HuggingFace,
        TextSide::Gguf(_) => Examined::Gguf,
    };
    let mut unverified = vec![NO_MANIFEST.to_owned()];
    // Hashes first: a damaged download is told as one, not by the first tensor that it spoils.
    let (files, bytes, hashed) =
        hub_hashes(fingerprint::files(checkpoint.path(), source.files().into_iter()))?;
    let (tensors, unread) = read_all(source)?;
    unverified
        .extend(unread.iter().map(|name| format!("tensor {name}: of a type or shape that is not read")));
    match checkpoint.tokenizer() {
        Ok(_) => {}
        Err(e) if e.kind() == Kind::Missing => unverified.push("no tokenizer: no text was tried".into()),
        Err(e) => return Err(e),
    }
    checkpoint.chat_template()?;
    Ok(Examination { kind, files, bytes, tensors, hashed, unverified })
}

fn adapter(folder: &Path) -> Result<Examination> {
    let adapter = read_adapter(folder)?;
    let paths = [ADAPTER_CONFIG, ADAPTER_MODEL].map(|name| folder.join(name));
    let (files, bytes, hashed) = hub_hashes(paths.into_iter().collect())?;
    Ok(Examination {
        kind: Examined::Adapter,
        files,
        bytes,
        tensors: 2 * adapter.names().count(),
        hashed,
        unverified: vec![
            NO_MANIFEST.into(),
            "without its model: that these linear layers are the model's".into(),
        ],
    })
}

/// Reads every tensor, one at a time; gives their number, and the names of those that nothing reads.
fn read_all(source: &dyn TensorSource) -> Result<(usize, Vec<String>)> {
    let mut unread = Vec::new();
    for (name, info) in source.tensors() {
        match info.shape.len() {
            _ if source.check(name).is_err() => unread.push(name.clone()),
            1 => drop(source.vector(name)?),
            2 => drop(source.weight(name)?),
            _ => unread.push(name.clone()),
        }
    }
    Ok((source.tensors().len() - unread.len(), unread))
}

/// Names and bytes of files, and the names of those whose hash was known and right.
fn hub_hashes(paths: BTreeSet<PathBuf>) -> Result<(Vec<String>, u64, Vec<String>)> {
    let (mut files, mut bytes, mut hashed) = (Vec::new(), 0, Vec::new());
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bytes += disk::len(&path)?;
        if let Some(recorded) = blob_digest(&path)? {
            if sha256_file(&path)?.0 != recorded {
                return Err(Error::bad_data("its SHA-256 is not the one that the hub gave it")
                    .file(&path)
                    .next("delete the model from the cache and fetch it again"));
            }
            hashed.push(name.clone());
        }
        files.push(name);
    }
    Ok((files, bytes, hashed))
}

/// The SHA-256 that a large file of the hub's cache is named by: `blobs/<64 hex digits>`. Small files are named by
/// their git hash, which is another.
fn blob_digest(path: &Path) -> Result<Option<String>> {
    let blob = path.canonicalize().map_err(|e| Error::reading(path, &e))?;
    let in_blobs = blob.parent().and_then(Path::file_name).is_some_and(|folder| folder == "blobs");
    let name = blob.file_name().and_then(|name| name.to_str());
    let digest = |name: &&str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    Ok(name.filter(digest).filter(|_| in_blobs).map(str::to_ascii_lowercase))
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
