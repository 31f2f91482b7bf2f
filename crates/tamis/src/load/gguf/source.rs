//! The tensors of a GGUF file under their Hugging Face names.
//!
//! For architecture `llama` the converter reorders the rows of q and k so that rotary
//! pairs are neighbours. Blocks run along a row, so undoing it moves whole rows of
//! blocks and no weight is touched. Norm weights of
//! Gemma hold the `+ 1` that Hugging Face leaves to the model; it is taken off here.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::Path;

use half::{bf16, f16};
use tamis_kernels::pack::{DenseF32, DenseHalf, GgmlMatrix, HalfData, PackError};

use super::header::{Header, Storage, Tensor};
use super::names::hf_name;
use crate::disk::DataFile;
use crate::error::{Error, Result};
use crate::load::values::{Float, check_finite, expect_matrix, expect_vector, from_le, non_finite};
use crate::load::{TensorInfo, TensorSource};
use crate::model::Weight;
use crate::model::architecture::{Family, NormStorage};

/// An open file with its checked header.
#[derive(Debug)]
pub struct GgufFile {
    file: DataFile,
    header: Header,
}

impl GgufFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let file = DataFile::open(path)?;
        let reader = BufReader::with_capacity(1 << 16, file.file());
        let header = Header::read(reader, file.len()).map_err(|e| e.or_file(path))?;
        Ok(Self { file, header })
    }
    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
    /// Reads a vector by its GGUF name; none where the file has no such tensor.
    pub fn raw_vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.header.tensors.get(name) else { return Ok(None) };
        self.vector(name, tensor).map(Some)
    }

    fn vector(&self, name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
        let n = expect_vector(name, &tensor.shape).map_err(|e| e.file(self.path()))?;
        match tensor.storage {
            Storage::F32 => self.floats(name, tensor, n),
            Storage::F16 => Ok(self.floats::<f16>(name, tensor, n)?.into_iter().map(f32::from).collect()),
            Storage::Bf16 => Ok(self.floats::<bf16>(name, tensor, n)?.into_iter().map(f32::from).collect()),
            Storage::Blocks(_) => Err(self.packed_vector(name, tensor)),
        }
    }

    fn packed_vector(&self, name: &str, tensor: &Tensor) -> Error {
        let refusal = format!("a vector in {} is not supported", tensor.storage.name());
        Error::bad_data(refusal).file(self.path()).tensor(name)
    }

    fn floats<T: Float>(&self, name: &str, tensor: &Tensor, n: usize) -> Result<Vec<T>> {
        let mut data = self.file.read::<T>(tensor.offset, n).map_err(|e| e.tensor(name))?;
        from_le(&mut data);
        check_finite(&data, tensor.offset).map_err(|e| e.file(self.path()).tensor(name))?;
        Ok(data)
    }
}

/// How the rows of a tensor lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    AsIs,
    /// Per head of `2 * half` rows: row `2 i + p` of the file is row `p * half + i`.
    PairsOf {
        half: usize,
    },
}

impl RowOrder {
    /// The file's row that holds row `row` of the model.
    fn source(self, row: usize) -> usize {
        match self {
            Self::AsIs => row,
            Self::PairsOf { half } => {
                let (head, within) = (row / (2 * half), row % (2 * half));
                head * 2 * half + 2 * (within % half) + within / half
            }
        }
    }
    /// Puts rows of `width` elements into the model's order.
    fn restore<T: Copy>(self, data: Vec<T>, width: usize) -> Vec<T> {
        if self == Self::AsIs {
            return data;
        }
        let rows = data.len() / width;
        (0..rows).flat_map(|row| &data[self.source(row) * width..][..width]).copied().collect()
    }
}

/// Lazily read tensors of a GGUF file.
#[derive(Debug)]
pub struct GgufSource {
    file: GgufFile,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, (String, RowOrder)>,
    norms: NormStorage,
}

/// Rotary pairs in the rows of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryRows {
    /// First halves, then second halves, as Hugging Face has it.
    Halves,
    /// Pairs beside each other, in heads of this many rows.
    Interleaved {
        /// Rows a head.
        head_dim: usize,
    },
}

impl GgufSource {
    /// Gives the tensors of `file` their Hugging Face names; those that play no role
    /// in the model (rotary factors) are left out.
    pub fn new(file: GgufFile, family: &Family, rotary: RotaryRows) -> Result<Self> {
        let (tensors, places) = (BTreeMap::new(), BTreeMap::new());
        let mut source = Self { tensors, places, norms: family.norms, file };
        for (gguf, tensor) in &source.file.header.tensors {
            let Some(name) = hf_name(family.names, gguf) else { continue };
            let order = match rotary {
                RotaryRows::Interleaved { head_dim } if is_q_or_k(gguf) => {
                    let half = head_dim / 2;
                    if half == 0 || !tensor.shape[0].is_multiple_of(2 * half) {
                        let problem = format!("{} rows are not whole heads of {head_dim}", tensor.shape[0]);
                        return Err(Error::bad_data(problem).file(source.file.path()).tensor(gguf));
                    }
                    RowOrder::PairsOf { half }
                }
                _ => RowOrder::AsIs,
            };
            let info = TensorInfo {
                dtype: tensor.storage.name().to_string(),
                shape: tensor.shape.clone(),
                bytes: tensor.bytes,
                file: source.file.path().to_path_buf(),
            };
            source.tensors.insert(name.clone(), info);
            source.places.insert(name, (gguf.clone(), order));
        }
        Ok(source)
    }
    /// The file under it.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    fn find(&self, name: &str) -> Result<(&str, &Tensor, RowOrder)> {
        let (gguf, order) = self.places.get(name).ok_or_else(|| {
            Error::bad_data("the model has no such tensor").file(self.file.path()).tensor(name)
        })?;
        Ok((gguf, &self.file.header.tensors[gguf], *order))
    }
}

/// Whether a vector is the weight of a norm: every family's norm names end so.
fn is_norm(name: &str) -> bool {
    name.strip_suffix(".weight").is_some_and(|n| n.ends_with("norm"))
}

/// Whether a GGUF name is that of a query or key projection (weight or bias).
fn is_q_or_k(gguf: &str) -> bool {
    matches!(gguf.rsplit('.').nth(1), Some("attn_q" | "attn_k"))
}

impl TensorSource for GgufSource {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn check(&self, name: &str) -> Result<()> {
        let (gguf, tensor, _) = self.find(name)?;
        match tensor.storage {
            Storage::Blocks(_) if tensor.shape.len() == 1 => Err(self.file.packed_vector(gguf, tensor)),
            _ => Ok(()),
        }
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let (gguf, tensor, order) = self.find(name)?;
        let (rows, cols) = expect_matrix(gguf, &tensor.shape).map_err(|e| e.file(self.file.path()))?;
        let n = rows * cols;
        let weight: Result<Weight, PackError> = match tensor.storage {
            Storage::F32 => {
                let data = order.restore(self.file.floats(gguf, tensor, n)?, cols);
                DenseF32::new(rows, cols, data).map(Weight::F32)
            }
            Storage::F16 => {
                let data = order.restore(self.file.floats::<f16>(gguf, tensor, n)?, cols);
                DenseHalf::new(rows, cols, HalfData::F16(data)).map(Weight::Half)
            }
            Storage::Bf16 => {
                let data = order.restore(self.file.floats::<bf16>(gguf, tensor, n)?, cols);
                DenseHalf::new(rows, cols, HalfData::Bf16(data)).map(Weight::Half)
            }
            Storage::Blocks(kind) => {
                let bytes = tensor.bytes as usize;
                let data = self.file.file.read::<u8>(tensor.offset, bytes).map_err(|e| e.tensor(gguf))?;
                if let Some(at) = kind.first_non_finite(&data) {
                    let index = at / kind.block_bytes() * kind.block_weights();
                    let error = non_finite(index, tensor.offset + at as u64);
                    return Err(error.file(self.file.path()).tensor(gguf));
                }
                GgmlMatrix::new(kind, rows, cols, order.restore(data, bytes / rows)).map(Weight::Ggml)
            }
        };
        weight.map_err(|e| Error::bad_data(e.to_string()).file(self.file.path()).tensor(gguf))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let (gguf, tensor, order) = self.find(name)?;
        let mut data = order.restore(self.file.vector(gguf, tensor)?, 1);
        if self.norms == NormStorage::MinusOne && is_norm(name) {
            data.iter_mut().for_each(|w| *w -= 1.0);
        }
        Ok(data)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
