//! What a tensor is stored as, and the one place that knows which safetensors tensors
//! that takes: `weight_packed`, `weight_scale`, `weight_shape`, `weight_zero_point` of
//! compressed-tensors `pack-quantized`, the three arrays of the ortho sidecar, and the kept
//! weights of a pruned tensor with what says where they stand: a bit for each weight
//! (`weight_bitmap`), the columns of blocks, or the column of each weight (`weight_columns`).
//!
//! Knows no file. Source: compressed-tensors `compressors/pack_quantized` (0.20).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tamis_kernels::pack::{BitmapData, BlockData, HalfData, RowSource as _, packed_words};

use super::container::{Dtype, Slot};
use super::pruned;
use crate::error::{Error, Result};
use crate::model::Weight;
use crate::units::Bits;

/// A tensor on its way into or out of an artifact.
#[derive(Debug, Clone)]
pub enum Stored {
    /// A matrix `[out, in]`.
    Matrix(Weight),
    /// A norm or a bias.
    Vector(Vector),
}

/// A one-dimensional tensor in the type it is stored as.
#[derive(Debug, Clone, PartialEq)]
pub enum Vector {
    /// f32.
    F32(Vec<f32>),
    /// f16 or bf16.
    Half(HalfData),
}

impl From<Weight> for Stored {
    fn from(weight: Weight) -> Self {
        Self::Matrix(weight)
    }
}

impl From<Vec<f32>> for Stored {
    fn from(values: Vec<f32>) -> Self {
        Self::Vector(Vector::F32(values))
    }
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Encoding {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Packed integers with a scale a group, and an ortho stream where there is one.
    Integers {
        /// Bits a code.
        bits: Bits,
        /// Input features that share a scale; the row length for one scale a row.
        group: usize,
        /// Whether the grid is symmetric (no zero points stored).
        symmetric: bool,
        /// Entries of the ortho stream; none where the tensor has no stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ortho: Option<usize>,
    },
    /// Kept weights, and a bit for each weight that says which they are.
    Bitmap {
        /// Weights that are kept.
        kept: usize,
        /// Input features that share a scale of codes; none for bfloat16.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<usize>,
        /// Bits of a code, where they are not 8: 4.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bits: Option<Bits>,
    },
    /// Kept blocks of 16 x 16.
    Blocks {
        /// Blocks that are kept.
        blocks: usize,
        /// Bits of a code, 4 or 8; none for bfloat16.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bits: Option<Bits>,
    },
    /// Kept weights in f16, each with its column.
    Sparse {
        /// Weights that are kept.
        kept: usize,
    },
}

/// A tensor of the artifact, by its Hugging Face name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Name, ending in `.weight` or `.bias`.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: Encoding,
    /// SHA-256 of the bytes of each tensor it is made of, by full name.
    pub sha256: BTreeMap<String, String>,
}

/// The safetensors tensors of one [`TensorEntry`], by the file they lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) base: Vec<Slot>,
    pub(super) ortho: Vec<Slot>,
}

impl Slots {
    pub(super) fn all(&self) -> impl Iterator<Item = &Slot> {
        self.base.iter().chain(&self.ortho)
    }
}

impl Stored {
    /// Shape as Hugging Face writes it.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Matrix(w) => vec![w.rows(), w.cols()],
            Self::Vector(Vector::F32(v)) => vec![v.len()],
            Self::Vector(Vector::Half(HalfData::F16(v))) => vec![v.len()],
            Self::Vector(Vector::Half(HalfData::Bf16(v))) => vec![v.len()],
        }
    }

    /// How this value is stored. Errors: integers of a width that no file holds.
    pub fn encoding(&self) -> Result<Encoding> {
        let half = |data: &HalfData| match data {
            HalfData::F16(_) => Encoding::F16,
            HalfData::Bf16(_) => Encoding::Bf16,
        };
        Ok(match self {
            Self::Vector(Vector::F32(_)) | Self::Matrix(Weight::F32(_)) => Encoding::F32,
            Self::Vector(Vector::Half(data)) => half(data),
            Self::Matrix(Weight::Half(w)) => half(w.data()),
            Self::Matrix(Weight::Ggml(_)) => return Err(no_ggml()),
            Self::Matrix(Weight::Tiled { .. }) => return Err(no_tiles()),
            Self::Matrix(Weight::Packed(base)) => Encoding::of(base, None)?,
            Self::Matrix(Weight::Bitmap(w)) => Encoding::Bitmap {
                kept: w.starts().last().map_or(0, |n| *n as usize),
                group: match w.data() {
                    BitmapData::Bf16(_) => None,
                    BitmapData::Int8 { group, .. } | BitmapData::Int4 { group, .. } => Some(*group),
                },
                bits: match w.data() {
                    BitmapData::Int4 { .. } => Some(Bits::new(4)?),
                    BitmapData::Bf16(_) | BitmapData::Int8 { .. } => None,
                },
            },
            Self::Matrix(Weight::Blocks(w)) => Encoding::Blocks {
                blocks: w.columns().len(),
                bits: match w.data() {
                    BlockData::Bf16(_) => None,
                    BlockData::Integers { bits, .. } => Some(Bits::new(*bits)?),
                },
            },
            Self::Matrix(Weight::Sparse(w)) => Encoding::Sparse { kept: w.entries() },
            Self::Matrix(Weight::Sieved { base, ortho }) => {
                if (ortho.rows(), ortho.cols()) != (base.rows(), base.cols()) {
                    return Err(Error::bad_data("base and ortho have different shapes"));
                }
                Encoding::of(base, Some(ortho.entries()))?
            }
        })
    }
}

/// GGUF's own blocks have no place in a Hugging Face folder.
pub(super) fn no_tiles() -> Error {
    Error::usage("weights prepared for running cannot be stored").next("store the weights as they were read")
}

pub(super) fn no_ggml() -> Error {
    Error::usage("a tensor in GGUF blocks cannot be stored as it is").next("convert it to 16 or 8 bits first")
}

impl Encoding {
    fn of(base: &tamis_kernels::pack::PackedMatrix, ortho: Option<usize>) -> Result<Self> {
        Ok(Self::Integers {
            bits: Bits::new(base.bits())?,
            group: base.group(),
            symmetric: base.zeros().is_none(),
            ortho,
        })
    }

    /// Entries of the ortho stream.
    pub fn ortho_entries(self) -> Option<usize> {
        match self {
            Self::Integers { ortho, .. } => ortho,
            _ => None,
        }
    }

    /// Whether weights are left out.
    pub fn is_pruned(self) -> bool {
        matches!(self, Self::Bitmap { .. } | Self::Blocks { .. } | Self::Sparse { .. })
    }

    /// The same without an ortho stream.
    #[must_use]
    pub fn base(self) -> Self {
        match self {
            Self::Integers { bits, group, symmetric, .. } => {
                Self::Integers { bits, group, symmetric, ortho: None }
            }
            dense => dense,
        }
    }

    /// The safetensors tensors of a tensor `name` of this shape. Errors: a shape that
    /// overflows, integers that are no matrix or are not called `.weight`, a group that is
    /// longer than a row.
    pub(super) fn slots(self, name: &str, shape: &[usize]) -> Result<Slots> {
        self.try_slots(name, shape).map_err(|e| e.tensor(name))
    }

    fn try_slots(self, name: &str, shape: &[usize]) -> Result<Slots> {
        // Eight bytes a weight bound every array below, so no later product can overflow.
        let total = shape.iter().try_fold(8usize, |n, &d| n.checked_mul(d));
        if !matches!(shape.len(), 1 | 2) || total.is_none_or(|n| n > isize::MAX as usize) {
            return Err(Error::bad_data(format!("shape {shape:?} is no vector and no matrix")));
        }
        let dense = |dtype| Slots {
            base: vec![Slot { name: name.into(), dtype, shape: shape.into() }],
            ortho: vec![],
        };
        let (bits, group, symmetric, ortho) = match self {
            Self::F32 => return Ok(dense(Dtype::F32)),
            Self::F16 => return Ok(dense(Dtype::F16)),
            Self::Bf16 => return Ok(dense(Dtype::Bf16)),
            Self::Integers { bits, group, symmetric, ortho } => (bits.get(), group, symmetric, ortho),
            Self::Bitmap { .. } | Self::Blocks { .. } | Self::Sparse { .. } => {
                return Ok(Slots { base: pruned::slots(self, matrix(name, shape)?)?, ortho: vec![] });
            }
        };
        let (stem, (rows, cols)) = matrix(name, shape)?;
        if group == 0 || group > cols {
            return Err(Error::bad_data(format!("a group of {group} in rows of {cols}")));
        }
        let slot = |suffix, dtype, shape: &[usize]| Slot::of(stem, suffix, dtype, shape);
        let groups = cols.div_ceil(group);
        let mut base = vec![
            slot("weight_packed", Dtype::I32, &[rows, packed_words(cols, bits)]),
            slot("weight_scale", Dtype::F16, &[rows, groups]),
            slot("weight_shape", Dtype::I64, &[2]),
        ];
        if !symmetric {
            base.push(slot("weight_zero_point", Dtype::I32, &[packed_words(rows, bits), groups]));
        }
        let stream = |entries: usize| {
            vec![
                slot("ortho_starts", Dtype::U32, &[rows + 1]),
                slot("ortho_columns", Dtype::U16, &[entries]),
                slot("ortho_values", Dtype::F16, &[entries]),
            ]
        };
        if ortho.is_some_and(|n| n > rows * cols || u32::try_from(n).is_err()) {
            return Err(Error::bad_data(format!("{ortho:?} ortho entries in a {rows}x{cols} matrix")));
        }
        Ok(Slots { base, ortho: ortho.map(stream).unwrap_or_default() })
    }
}

/// Stem and shape of a tensor that has more than one part.
fn matrix<'a>(name: &'a str, shape: &[usize]) -> Result<(&'a str, (usize, usize))> {
    match (shape, name.strip_suffix(".weight")) {
        (&[rows, cols], Some(stem)) => Ok((stem, (rows, cols))),
        _ => Err(Error::bad_data("only a matrix called `.weight` can be packed")),
    }
}

impl TensorEntry {
    pub(super) fn slots(&self) -> Result<Slots> {
        self.encoding.slots(&self.name, &self.shape)
    }

    /// `int4 g64 sym + ortho 0.50%`, `bf16`.
    pub fn kind(&self) -> String {
        let weights: usize = self.shape.iter().product();
        let share = |n: usize| format!(" + ortho {:.2}%", 100.0 * n as f64 / weights.max(1) as f64);
        let per_row = self.shape.last().copied();
        let base = self.encoding.base().to_string();
        let base = match self.encoding {
            Encoding::Integers { group, .. } if Some(group) == per_row => {
                base.replace(&format!("g{group} "), "row ")
            }
            _ => base,
        };
        base + &self.encoding.ortho_entries().map(share).unwrap_or_default()
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Integers { bits, group, symmetric, ortho } => {
                let grid = if *symmetric { "sym" } else { "asym" };
                write!(f, "int{} g{group} {grid}", bits.get())?;
                ortho.map_or(Ok(()), |n| write!(f, " + ortho {n}"))
            }
            Self::Bitmap { group: None, .. } => f.write_str("bitmap bf16"),
            Self::Bitmap { group: Some(group), bits, .. } => {
                write!(f, "bitmap int{} g{group}", bits.map_or(8, Bits::get))
            }
            Self::Blocks { bits: None, .. } => f.write_str("blocks bf16"),
            Self::Blocks { bits: Some(bits), .. } => write!(f, "blocks int{}", bits.get()),
            Self::Sparse { .. } => f.write_str("csr f16"),
        }
    }
}
