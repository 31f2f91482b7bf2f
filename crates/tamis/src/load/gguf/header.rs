//! The header of a GGUF file, versions 2 and 3: metadata and where each tensor lies.
//! Knows no model. Tensor ranges are inside the file, aligned and disjoint.
//!
//! Source: ggml `docs/gguf.md`. Dimensions are stored fastest first; shapes here are
//! row-major, as everywhere in tamis.

use std::collections::BTreeMap;
use std::io::Read;

use tamis_kernels::pack::GgmlType;

use super::metadata::Metadata;
use super::reader::Reader;
use crate::error::{Error, Result};

/// `GGUF`, the first four bytes.
pub const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: usize = 32;
const ALIGNMENT_LIMIT: usize = 1 << 20;
const DIMS_LIMIT: u32 = 4;
/// Bytes of the shortest tensor entry: empty name, one dimension, type, offset.
const TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;
/// Bytes of the shortest key-value pair: empty key, type, one byte.
const PAIR_BYTES: u64 = 8 + 4 + 1;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// f32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks.
    Blocks(GgmlType),
}

impl Storage {
    /// By the format's number; `Err` holds the format's name of a type that is not read.
    fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Blocks(GgmlType::Q4_0),
            3 => Self::Blocks(GgmlType::Q4_1),
            6 => Self::Blocks(GgmlType::Q5_0),
            7 => Self::Blocks(GgmlType::Q5_1),
            8 => Self::Blocks(GgmlType::Q8_0),
            10 => Self::Blocks(GgmlType::Q2K),
            11 => Self::Blocks(GgmlType::Q3K),
            12 => Self::Blocks(GgmlType::Q4K),
            13 => Self::Blocks(GgmlType::Q5K),
            14 => Self::Blocks(GgmlType::Q6K),
            30 => Self::Bf16,
            _ => {
                let names = [(9, "Q8_1"), (15, "Q8_K"), (16, "IQ2_XXS"), (17, "IQ2_XS"), (18, "IQ3_XXS")];
                let more = [(19, "IQ1_S"), (20, "IQ4_NL"), (21, "IQ3_S"), (22, "IQ2_S"), (23, "IQ4_XS")];
                let rest = [(28, "F64"), (29, "IQ1_M"), (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4")];
                let known = names.iter().chain(&more).chain(&rest).find(|(n, _)| *n == number);
                return Err(known.map_or(format!("number {number}"), |(_, name)| (*name).to_string()));
            }
        })
    }
    /// The format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Blocks(kind) => kind.name(),
        }
    }
    /// Bytes of a row; none where the row is not a whole number of blocks.
    fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::F32 => cols.checked_mul(4),
            Self::F16 | Self::Bf16 => cols.checked_mul(2),
            Self::Blocks(kind) => kind.bytes_of(cols),
        }
    }
}

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Storage type.
    pub storage: Storage,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Key-value pairs.
    pub metadata: Metadata,
    /// Tensors by GGUF name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Bytes before the data of the tensors.
    pub length: u64,
}

impl Header {
    /// Reads the header of a file of `len` bytes.
    pub fn read(inner: impl Read, len: u64) -> Result<Self> {
        let mut reader = Reader::new(inner, len);
        if reader.array()? != MAGIC {
            return Err(Error::bad_data("not a GGUF file").offset(0));
        }
        check_version(reader.u32()?)?;
        let tensor_count = reader.count("tensors", TENSOR_BYTES)?;
        let pair_count = reader.count("metadata pairs", PAIR_BYTES)?;
        let metadata = Metadata::read(&mut reader, pair_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.string("a tensor name")?;
            let tensor = read_tensor(&mut reader).map_err(|e| e.tensor(&name))?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(reader.error("it is listed twice").tensor(name));
            }
        }
        let start = reader.at().next_multiple_of(alignment as u64);
        place(&mut tensors, start, alignment as u64, reader.len())?;
        Ok(Self { metadata, tensors, length: start })
    }
}

fn check_version(version: u32) -> Result<()> {
    let problem = match version {
        2 | 3 => return Ok(()),
        1 => "GGUF version 1 is not supported".to_string(),
        v if matches!(v.swap_bytes(), 1..=3) => "big-endian GGUF is not supported".to_string(),
        v => format!("GGUF version {v} is not supported"),
    };
    Err(Error::bad_data(problem).offset(4).next("convert the model to GGUF version 3, little endian"))
}

fn alignment(metadata: &Metadata) -> Result<usize> {
    let alignment = metadata.usize("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= ALIGNMENT_LIMIT {
        return Ok(alignment);
    }
    Err(Error::bad_data(format!(
        "general.alignment is {alignment}; it must be a power of two up to {ALIGNMENT_LIMIT}"
    )))
}

/// Reads an entry; its offset still counts from the start of the data.
fn read_tensor<R: Read>(reader: &mut Reader<R>) -> Result<Tensor> {
    let dims = reader.u32()?;
    if dims == 0 || dims > DIMS_LIMIT {
        return Err(reader.error(format!("{dims} dimensions; 1 to {DIMS_LIMIT} are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = reader.u64()?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.insert(0, dim),
            _ => return Err(reader.error(format!("a dimension of {dim}"))),
        }
    }
    let storage = Storage::from_number(reader.u32()?).map_err(|name| {
        reader
            .error(format!("type {name} is not supported"))
            .next("use a GGUF in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K")
    })?;
    let offset = reader.u64()?;
    let (cols, rows) = shape.split_last().expect("there is at least one dimension");
    let bytes = storage
        .row_bytes(*cols)
        .and_then(|bytes| rows.iter().try_fold(bytes, |n, &d| n.checked_mul(d)))
        .ok_or_else(|| {
            reader.error(format!("shape {shape:?} is not a size that exists in {}", storage.name()))
        })?;
    Ok(Tensor { shape, storage, offset, bytes: bytes as u64 })
}

/// Turns offsets into file offsets and checks that the ranges are apart and inside.
fn place(tensors: &mut BTreeMap<String, Tensor>, start: u64, alignment: u64, len: u64) -> Result<()> {
    for (name, tensor) in tensors.iter_mut() {
        let end = start.checked_add(tensor.offset).and_then(|o| o.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > len) {
            let problem = format!(
                "its {} bytes from {} of the data on lie past the end of the file ({len} bytes)",
                tensor.bytes, tensor.offset
            );
            return Err(Error::bad_data(problem)
                .tensor(name)
                .next("the file is truncated or damaged: fetch it again"));
        }
        if !tensor.offset.is_multiple_of(alignment) {
            let problem = format!("its offset {} is not a multiple of {alignment}", tensor.offset);
            return Err(Error::bad_data(problem).tensor(name));
        }
        tensor.offset += start;
    }
    let mut by_offset: Vec<(&String, &Tensor)> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, t)| t.offset);
    match by_offset.windows(2).find(|w| w[0].1.offset + w[0].1.bytes > w[1].1.offset) {
        Some(w) => Err(Error::bad_data(format!("it overlaps tensor {}", w[0].0))
            .tensor(w[1].0)
            .offset(w[1].1.offset)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
