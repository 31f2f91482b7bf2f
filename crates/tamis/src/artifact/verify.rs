//! Proves that an artifact is what its manifest says: every byte, every shape, every
//! number. An error names file, tensor and byte offset.
//!
//! Knows the shapes that a configuration implies, and nothing of how weights were made.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tamis_kernels::pack::{PackedMatrix, RowSource as _, packed_words};

use super::container::Container;
use super::entry::Stored;
use super::manifest::{BASE, CONFIG, FileEntry, Manifest, ORTHO, read_json};
use super::quantization;
use super::reader::ArtifactSource;
use crate::disk::digest::{CHUNK, Hasher, sha256_sized};
use crate::error::{Error, Result};
use crate::load::{Ortho, TensorSource as _, expected};
use crate::model::{Config, Weight};

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Files whose SHA-256 is that of the manifest.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
    /// Tensors that were decoded.
    pub tensors: usize,
    /// Whether the sidecar is there; a sidecar that was taken away is no error.
    pub ortho: Ortho,
}

/// Verifies a finished artifact; reads all of it twice.
pub fn verify(folder: &Path) -> Result<VerifyReport> {
    let manifest = Manifest::read(folder)?;
    let sidecar = folder.join(ORTHO).exists();
    let mut report = VerifyReport { files: vec![], bytes: 0, tensors: 0, ortho: Ortho::None };
    for required in [BASE, CONFIG] {
        if !manifest.files.contains_key(required) {
            return Err(Error::bad_data(format!("the manifest lists no {required}")).file(folder));
        }
    }
    for (name, entry) in &manifest.files {
        if name == ORTHO && !sidecar {
            continue;
        }
        check_file(folder, name, entry, &manifest)?;
        report.files.push(name.clone());
        report.bytes += entry.bytes;
    }
    let source = ArtifactSource::open(folder)?;
    report.ortho = source.ortho();
    check_config(folder, &source, &manifest)?;
    for name in source.tensors().keys() {
        if let Stored::Matrix(Weight::Packed(base) | Weight::Sieved { base, .. }) = source.read(name)? {
            check_padding(&base).map_err(|e| e.file(folder.join(BASE)).tensor(name))?;
        }
        report.tensors += 1;
    }
    Ok(report)
}

fn check_file(folder: &Path, name: &str, entry: &FileEntry, manifest: &Manifest) -> Result<()> {
    let path = folder.join(name);
    let again = "copy the artifact again, or make it again";
    if sha256_sized(&path, entry.bytes).map_err(|e| e.next(again))? == entry.sha256 {
        return Ok(());
    }
    if name == BASE || name == ORTHO {
        find_damage(&path, manifest).map_err(|e| e.next(again))?;
    }
    Err(Error::bad_data("the SHA-256 is not that of the manifest").file(&path).next(again))
}

/// Names the first tensor, in file order, whose own hash is wrong. Where none is, the
/// header is damaged.
fn find_damage(path: &Path, manifest: &Manifest) -> Result<()> {
    let file = Container::open(path)?;
    let hashes: BTreeMap<&String, &String> = manifest.tensors.iter().flat_map(|t| &t.sha256).collect();
    let mut entries: Vec<_> = file.entries().iter().collect();
    entries.sort_by_key(|(_, entry)| entry.offset);
    for (name, entry) in entries {
        let mut hasher = Hasher::default();
        file.stream(entry, CHUNK, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        if hashes.get(name).copied() != Some(&hasher.hex()) {
            let problem = format!("damaged somewhere in its {} bytes: the SHA-256 is wrong", entry.bytes);
            return Err(Error::bad_data(problem).file(path).tensor(name).offset(entry.offset));
        }
    }
    Err(Error::bad_data("the header is damaged").file(path).offset(0))
}

/// `config.json` describes these tensors: their packing to others, their shapes to us.
fn check_config(folder: &Path, source: &ArtifactSource, manifest: &Manifest) -> Result<()> {
    let path = folder.join(CONFIG);
    let json: Value = serde_json::from_slice(&read_json(&path)?)
        .map_err(|e| Error::bad_data(format!("not valid JSON: {e}")).file(&path))?;
    let described = json.get("quantization_config").cloned();
    if described != quantization::describe(&manifest.tensors) {
        return Err(Error::bad_data("quantization_config does not describe the tensors").file(&path));
    }
    let config = Config::from_hf(&json).map_err(|e| e.or_file(&path))?;
    expected::check(&config, source, folder)
}

/// Bits after the last code of a row are zero: the same weights have one file.
fn check_padding(base: &PackedMatrix) -> Result<()> {
    let used = base.cols() * base.bits() as usize % 32;
    let last = packed_words(base.cols(), base.bits());
    match base.words().chunks_exact(last).position(|row| used != 0 && row[last - 1] >> used != 0) {
        Some(row) => Err(Error::bad_data(format!("row {row} holds bits after its last code"))),
        None => Ok(()),
    }
}
