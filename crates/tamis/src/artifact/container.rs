//! One safetensors file: a header written and read with every number checked, tensors
//! read one at a time.
//!
//! Knows no model and no meaning of a tensor. Layout: u64 length of the header, JSON
//! header, data (<https://github.com/huggingface/safetensors>). The crate's own writer is
//! not used: it holds all tensors in memory, does not fsync and leaves mode 0600.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

/// Longest header that is read, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;

/// Name, type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Slot {
    /// Bytes of the data.
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * (self.dtype.bitsize() / 8)
    }
}

/// Brings slots into the order of the file: wide types first, so that every tensor is
/// aligned to its own width (what the safetensors crate does), then by name.
pub(super) fn file_order(slots: &mut [Slot]) {
    slots.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
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
            serde_json::json!({ "dtype": slot.dtype, "shape": slot.shape, "data_offsets": [start, end] }),
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
    path: PathBuf,
    file: File,
    data: u64,
    metadata: Metadata,
}

impl Container {
    /// Reads and checks the header: tensors follow each other without gaps, sizes match
    /// shapes, and the last one ends with the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::reading(path, &e);
        let bad = |problem: String, at: u64| Error::bad_data(problem).file(path).offset(at);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut word = [0; 8];
        if length < 8 {
            return Err(bad(format!("{length} bytes are too few for a safetensors file"), 0));
        }
        file.read_exact(&mut word).map_err(failed)?;
        let header = u64::from_le_bytes(word);
        if header > MAX_HEADER || header > length - 8 {
            return Err(bad(format!("a header of {header} bytes in a file of {length}"), 0));
        }
        let mut json = vec![0; header as usize];
        file.read_exact(&mut json).map_err(failed)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|e| bad(format!("the header is not valid: {e}"), 8))?;
        let data = 8 + header;
        let expected = data + metadata.data_len() as u64;
        if expected != length {
            let problem =
                format!("the header describes a file of {expected} bytes, this one has {length}: truncated?");
            return Err(bad(problem, length.min(expected)));
        }
        Ok(Self { path: path.to_path_buf(), file, data, metadata })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    /// Names in file order.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }
    /// First byte after the header.
    pub(super) fn data_start(&self) -> u64 {
        self.data
    }
    /// Bytes of the whole file.
    pub(super) fn length(&self) -> u64 {
        self.data + self.metadata.data_len() as u64
    }

    /// Name, type and shape of a tensor.
    pub(super) fn slot(&self, name: &str) -> Option<Slot> {
        let TensorInfo { dtype, shape, .. } = self.metadata.info(name)?;
        Some(Slot { name: name.into(), dtype: *dtype, shape: shape.clone() })
    }

    /// First byte and length of a tensor in the file.
    pub(super) fn span(&self, name: &str) -> Result<(u64, usize)> {
        let missing = || Error::bad_data("the tensor is not in the file").file(&self.path).tensor(name);
        let (start, end) = self.metadata.info(name).ok_or_else(missing)?.data_offsets;
        Ok((self.data + start as u64, end - start))
    }

    /// Bytes of a tensor that must have the type and shape of `slot`.
    pub(super) fn read(&self, slot: &Slot) -> Result<Vec<u8>> {
        self.check(slot)?;
        let (offset, length) = self.span(&slot.name)?;
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes).map_err(|e| e.tensor(&slot.name))?;
        Ok(bytes)
    }

    /// Checks that the file holds `slot` with this type and shape.
    pub(super) fn check(&self, slot: &Slot) -> Result<()> {
        let (offset, _) = self.span(&slot.name)?;
        let found = self.slot(&slot.name).expect("it has a span");
        if found == *slot {
            return Ok(());
        }
        let text = |s: &Slot| format!("{} {:?}", s.dtype, s.shape);
        Err(Error::bad_data(format!("is {}, expected {}", text(&found), text(slot)))
            .file(&self.path)
            .tensor(&slot.name)
            .offset(offset))
    }

    /// Fills `out` from `offset`; safe to call from several threads.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, &self.path, offset, out)
            .map_err(|e| Error::reading(&self.path, &e).offset(offset))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, _path: &Path, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Without a positioned read, a handle of its own keeps the cursor of this call apart.
#[cfg(not(unix))]
fn read_exact_at(_file: &File, path: &Path, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut own = File::open(path)?;
    own.seek(SeekFrom::Start(offset))?;
    own.read_exact(out)
}
