//! The work folder of an unfinished artifact: one safetensors file and one record a
//! finished part. A part counts as finished only when its record is there and the file
//! has the recorded length and SHA-256; records are written after their file.
//!
//! Knows nothing of the final layout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::codec::{decode, encode, read_slot};
use super::container::{Container, file_order, header};
use super::entry::{Stored, TensorEntry};
use super::manifest::{pretty, read_json};
use crate::disk::atomic::{self, Pending};
use crate::disk::digest::{Hasher, sha256_file};
use crate::disk::{DataFile, RunFolder, inside, list};
use crate::error::{Error, Result};

/// Hashes of everything that decides the bytes of the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The resolved recipe.
    pub recipe: String,
    /// The source model.
    pub model: String,
    /// Calibration text, window choice and seed; none where the recipe needs no text.
    pub calibration: Option<String>,
    /// Version of tamis.
    pub version: String,
}

impl Identity {
    /// Identity of a run of this version of tamis.
    pub fn new(recipe: String, model: String, calibration: Option<String>) -> Self {
        Self { recipe, model, calibration, version: env!("CARGO_PKG_VERSION").into() }
    }

    /// Names of the fields that differ.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("recipe", self.recipe != other.recipe),
            ("model", self.model != other.model),
            ("calibration", self.calibration != other.calibration),
            ("version", self.version != other.version),
        ];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// A piece of the model that is finished as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Token embedding, learned positions, projection of the embedding.
    Embedding,
    /// One decoder block.
    Block(usize),
    /// Final norm and head.
    Head,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Block(index) => write!(f, "block-{index:05}"),
            Self::Head => f.write_str("head"),
        }
    }
}

impl Part {
    fn parse(name: &str) -> Option<Self> {
        let part = match name {
            "embedding" => Self::Embedding,
            "head" => Self::Head,
            _ => Self::Block(name.strip_prefix("block-")?.parse().ok()?),
        };
        (part.to_string() == name).then_some(part)
    }
}

/// What is kept about a finished part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) tensors: Vec<TensorEntry>,
    pub(super) receipts: BTreeMap<String, Value>,
}

/// An open, locked work folder.
#[derive(Debug)]
pub(super) struct Work {
    folder: RunFolder,
    parts: BTreeMap<Part, Record>,
}

/// Name of the work folder in the output folder.
pub(crate) const WORK: &str = ".partial";
pub(super) const IDENTITY: &str = "identity.json";

impl Work {
    /// Creates and locks the work folder of `output`. Nothing in it is looked at yet.
    pub(super) fn lock(output: &Path) -> Result<Self> {
        Ok(Self { folder: RunFolder::create(output, WORK)?, parts: BTreeMap::new() })
    }

    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }
    pub(super) fn parts(&self) -> &BTreeMap<Part, Record> {
        &self.parts
    }
    fn tensors_file(&self, part: Part) -> Result<PathBuf> {
        self.folder.entry(&format!("{part}.safetensors"))
    }
    fn record_file(&self, part: Part) -> Result<PathBuf> {
        self.folder.entry(&format!("{part}.json"))
    }

    /// Whether a run with an identity has worked here.
    pub(super) fn is_used(&self) -> bool {
        self.folder.path().join(IDENTITY).exists()
    }

    /// Throws away everything but the lock.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.parts.clear();
        self.folder.clear(IDENTITY)
    }

    /// Starts anew where there is nothing, or takes over the finished parts of a run with
    /// the same identity.
    pub(super) fn resume(&mut self, identity: &Identity) -> Result<()> {
        if !self.is_used() {
            self.clear()?;
            return atomic::write(&self.folder.entry(IDENTITY)?, &pretty(identity));
        }
        Self::check_identity(self.folder.path(), identity)?;
        self.parts = self.scan()?;
        Ok(())
    }

    /// Forgets the finished parts that do not hold exactly the tensors that they are to hold.
    pub(super) fn retain(&mut self, names: &dyn Fn(Part) -> BTreeSet<String>) {
        self.parts.retain(|part, record| {
            let found: BTreeSet<String> = record.tensors.iter().map(|t| t.name.clone()).collect();
            found == names(*part)
        });
    }

    /// Errors: the work in `folder`, if there is any, is that of other inputs.
    pub(super) fn check_identity(folder: &Path, identity: &Identity) -> Result<()> {
        let path = inside(folder, IDENTITY)?;
        if !path.exists() {
            return Ok(());
        }
        let next = "`--resume never` discards that work; another output folder keeps it";
        let theirs: Identity = serde_json::from_slice(&read_json(&path)?)
            .map_err(|e| Error::bad_data(format!("not an identity: {e}")).file(&path).next(next))?;
        let differences = identity.differences(&theirs);
        if !differences.is_empty() {
            let problem = format!(
                "this folder holds unfinished work of another run: {} {}",
                differences.join(" and "),
                if differences.len() == 1 { "differs" } else { "differ" }
            );
            return Err(Error::usage(problem).file(&path).next(next));
        }
        Ok(())
    }

    fn scan(&self) -> Result<BTreeMap<Part, Record>> {
        let mut parts = BTreeMap::new();
        for path in list(self.folder.path())? {
            let name = path.file_name().and_then(|name| name.to_str());
            let stem = name.and_then(|n| n.strip_suffix(".json"));
            let Some(part) = stem.and_then(Part::parse) else { continue };
            if let Some(record) = self.finished(part)? {
                parts.insert(part, record);
            }
        }
        Ok(parts)
    }

    /// The record of a part, where the part is whole: the file has its length and digest, and holds the tensors of
    /// the record and no others.
    fn finished(&self, part: Part) -> Result<Option<Record>> {
        let (record_file, file) = (self.record_file(part)?, self.tensors_file(part)?);
        let Ok(record) = serde_json::from_slice::<Record>(&read_json(&record_file)?) else {
            return Ok(None);
        };
        if !file.exists() || DataFile::open(&file)?.len() != record.bytes {
            return Ok(None);
        }
        let (sha256, _) = sha256_file(&file)?;
        if sha256 != record.sha256 {
            return Ok(None);
        }
        Ok(record.describes(&Container::open(&file)?).then_some(record))
    }

    /// Writes a part: its tensors, then its record.
    pub(super) fn put(
        &mut self,
        part: Part,
        tensors: &[(String, Stored)],
        receipts: BTreeMap<String, Value>,
    ) -> Result<()> {
        let mut payloads = BTreeMap::new();
        let (mut slots, mut entries) = (Vec::new(), Vec::new());
        for (name, stored) in tensors {
            let (entry, parts) = encode(name, stored)?;
            entries.push(entry);
            for (slot, bytes) in parts {
                if payloads.insert(slot.name.clone(), bytes).is_some() {
                    return Err(Error::defect("stored twice in one part").tensor(&slot.name));
                }
                slots.push(slot);
            }
        }
        file_order(&mut slots);
        let head = header(&slots);
        let bytes = (head.len() + slots.iter().map(|s| s.bytes()).sum::<usize>()) as u64;
        let (mut file, mut hasher) = (Pending::create(&self.tensors_file(part)?, bytes)?, Hasher::default());
        for piece in std::iter::once(&head).chain(slots.iter().map(|s| &payloads[&s.name])) {
            hasher.update(piece);
            file.append(piece)?;
        }
        file.commit()?;
        let record = pretty(&Record { bytes, sha256: hasher.hex(), tensors: entries, receipts });
        atomic::write(&self.record_file(part)?, &record)?;
        // A number may change in its last digit on the way through JSON. Keeping what a
        // resumed run would read makes its manifest the same as an uninterrupted run's.
        self.parts.insert(part, serde_json::from_slice(&record).expect("it was just written"));
        Ok(())
    }

    /// The tensors of a finished part, in the order they were put.
    pub(super) fn read(&self, part: Part) -> Result<Vec<(String, Stored)>> {
        let record = self
            .parts
            .get(&part)
            .ok_or_else(|| Error::defect(format!("{part} is not finished")).file(self.folder.path()))?;
        let file = self.open(part)?;
        let tensor = |entry: &TensorEntry| {
            let stored = decode(&entry.name, &entry.shape, entry.encoding, &|slot| read_slot(&file, slot))?;
            Ok((entry.name.clone(), stored))
        };
        record.tensors.iter().map(tensor).collect::<Result<_>>().map_err(|e| e.or_file(file.path()))
    }

    pub(super) fn open(&self, part: Part) -> Result<Container> {
        Container::open(&self.tensors_file(part)?)
    }

    /// Removes the folder once everything is in its final place.
    pub(super) fn remove(self) -> Result<()> {
        self.folder.remove(IDENTITY)
    }
}

impl Record {
    /// Whether a file holds exactly what is written down here.
    fn describes(&self, file: &Container) -> bool {
        let mut known = BTreeSet::new();
        let found = self.tensors.iter().all(|entry| {
            entry.slots().is_ok_and(|slots| {
                slots.all().all(|slot| file.check(slot).is_ok() && known.insert(slot.name.clone()))
            })
        });
        found && known.len() == file.entries().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_read_back_and_sort_as_the_model_runs() {
        let parts = [Part::Embedding, Part::Block(0), Part::Block(9), Part::Block(123_456), Part::Head];
        for part in parts {
            assert_eq!(Part::parse(&part.to_string()), Some(part));
        }
        assert!(parts.is_sorted());
        assert_eq!(Part::parse("block-1"), None);
    }
}
