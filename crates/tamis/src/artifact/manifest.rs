//! `manifest.json`: what the folder holds, how it was made, and the SHA-256 of every file.
//! It is written last, by rename, so its presence means that the artifact is complete.
//!
//! Knows no tensor data.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::entry::TensorEntry;
use super::work::Identity;
use crate::disk::{is_plain_name, read_small};
use crate::error::{Error, Result};

/// Name of the manifest in the folder.
pub const MANIFEST: &str = "manifest.json";
/// Name of the base weights.
pub const BASE: &str = "model.safetensors";
/// Name of the ortho sidecar.
pub const ORTHO: &str = "ortho.safetensors";
/// Name of the model configuration.
pub const CONFIG: &str = "config.json";

/// Version of the folder's layout that this program writes.
pub const FORMAT_VERSION: u32 = 1;
const FORMAT: &str = "tamis";
/// Longest JSON file of an artifact that is read.
const MAX_JSON: u64 = 256 << 20;

/// The manifest of a finished artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `tamis`.
    pub format: String,
    /// Layout version.
    pub format_version: u32,
    /// Hashes of what went in.
    pub identity: Identity,
    /// The resolved recipe.
    pub recipe: Value,
    /// Seed of every random choice.
    pub seed: u64,
    /// All tensors, embedding first, then the blocks, then the head.
    pub tensors: Vec<TensorEntry>,
    /// Per tensor: how it was compressed and what was lost.
    pub receipts: BTreeMap<String, Value>,
    /// Every file except the manifest.
    pub files: BTreeMap<String, FileEntry>,
    /// Facts of the run that made it (time, peak memory); the only part that may differ
    /// between two runs with the same identity.
    pub run: Value,
}

/// Length and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// The part of a manifest that is the same in every version.
#[derive(Deserialize)]
struct Label {
    format: Option<String>,
    format_version: Option<u32>,
}

impl Manifest {
    pub(super) fn new(identity: Identity, tensors: Vec<TensorEntry>) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            identity,
            recipe: Value::Null,
            seed: 0,
            tensors,
            receipts: BTreeMap::new(),
            files: BTreeMap::new(),
            run: Value::Null,
        }
    }

    /// Reads the manifest of `folder`. Errors: no manifest, another program's, a newer layout.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        Self::parse(&read_json(&path)?).map_err(|e| e.file(&path))
    }

    /// The checks of [`Manifest::read`] on bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid = |e: serde_json::Error| {
            Error::bad_data(format!("the manifest is not valid: {e}")).line(e.line() as u64)
        };
        let label: Label = serde_json::from_slice(bytes).map_err(invalid)?;
        if label.format.as_deref() != Some(FORMAT) {
            return Err(Error::bad_data("this manifest is not of a tamis artifact"));
        }
        match label.format_version {
            Some(FORMAT_VERSION) => {}
            Some(newer) if newer > FORMAT_VERSION => {
                let problem = format!("format version {newer}, this program reads up to {FORMAT_VERSION}");
                return Err(Error::bad_data(problem).next("update tamis"));
            }
            other => return Err(Error::bad_data(format!("format version {other:?} does not exist"))),
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(invalid)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Names stay inside the folder, shapes exist, and no tensor occurs twice.
    fn check(&self) -> Result<()> {
        if let Some(name) = self.files.keys().find(|n| !is_plain_name(n)) {
            return Err(Error::bad_data(format!("{name:?} is not a plain file name")));
        }
        for entry in &self.tensors {
            entry.slots()?;
        }
        let mut names: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::bad_data("listed twice").tensor(pair[0])),
            None => Ok(()),
        }
    }

    /// As it is written.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        pretty(self)
    }
}

/// JSON for people to read, with a final line break.
pub(super) fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data serialises");
    bytes.push(b'\n');
    bytes
}

/// Bytes of a JSON file of sane size.
pub(super) fn read_json(path: &Path) -> Result<Vec<u8>> {
    read_small(path, MAX_JSON)
}
