//! One safetensors file: a header written and read with every number checked, tensors
//! read one at a time.
//!
//! Knows no model and no meaning of a tensor. Reading is `load/safetensors.rs`; the crate's
//! writer is not used: it holds all tensors in memory, does not fsync, leaves mode 0600.

use std::path::Path;

use crate::disk::DataFile;
use crate::error::{Error, Result};
use crate::load::folder::read_header;
use crate::load::safetensors::{Entries, Entry};

/// The types that an artifact uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    I8,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
}

impl Dtype {
    /// Name in the header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::I64 => "I64",
        }
    }
    /// Bytes a number.
    pub(super) fn width(self) -> usize {
        match self {
            Self::I8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// Name, type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Slot {
    /// A part of the tensor `stem`.
    pub(super) fn of(stem: &str, suffix: &str, dtype: Dtype, shape: &[usize]) -> Self {
        Self { name: format!("{stem}.{suffix}"), dtype, shape: shape.into() }
    }
    /// Bytes of the data.
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.width()
    }
}

/// Brings slots into the order of the file: wide types first, so that every tensor is
/// aligned to its own width (what the safetensors crate does), then by name.
pub(super) fn file_order(slots: &mut [Slot]) {
    slots.sort_by(|a, b| b.dtype.width().cmp(&a.dtype.width()).then_with(|| a.name.cmp(&b.name)));
}

/// The bytes before the data of a file that holds `slots` in this order.
pub(super) fn header(slots: &[Slot]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    // transformers refuses files without this key.
    entries.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut start = 0;
    for slot in slots {
        let end = start + slot.bytes();
        entries.insert(
            slot.name.clone(),
            serde_json::json!({ "dtype": slot.dtype.name(), "shape": slot.shape, "data_offsets": [start, end] }),
        );
        start = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

/// An opened file whose header is consistent with its length.
#[derive(Debug)]
pub(super) struct Container {
    file: DataFile,
    entries: Entries,
}

impl Container {
    /// Reads and checks the header: tensors follow each other without gaps, sizes match
    /// shapes, and the last one ends with the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = DataFile::open(path)?;
        let entries = read_header(&file)?;
        Ok(Self { file, entries })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
    /// All tensors by name.
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// What the header says about a tensor.
    pub(super) fn entry(&self, name: &str) -> Result<&Entry> {
        let missing = || Error::bad_data("the tensor is not in the file").file(self.path()).tensor(name);
        self.entries.get(name).ok_or_else(missing)
    }

    /// Bytes of a tensor that must have the type and shape of `slot`.
    pub(super) fn read(&self, slot: &Slot) -> Result<Vec<u8>> {
        let entry = self.check(slot)?;
        self.file.read(entry.offset, slot.bytes()).map_err(|e| e.tensor(&slot.name))
    }

    /// Checks that the file holds `slot` with this type and shape.
    pub(super) fn check(&self, slot: &Slot) -> Result<&Entry> {
        let found = self.entry(&slot.name)?;
        if (found.dtype.as_str(), &found.shape) == (slot.dtype.name(), &slot.shape) {
            return Ok(found);
        }
        let problem =
            format!("is {} {:?}, expected {} {:?}", found.dtype, found.shape, slot.dtype.name(), slot.shape);
        Err(Error::bad_data(problem).file(self.path()).tensor(&slot.name).offset(found.offset))
    }

    /// Calls `take` with the bytes of a tensor, piece by piece.
    pub(super) fn stream(
        &self,
        entry: &Entry,
        piece: usize,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < entry.bytes {
            let n = (entry.bytes - done).min(piece as u64);
            take(&self.file.read::<u8>(entry.offset + done, n as usize)?)?;
            done += n;
        }
        Ok(())
    }
}
