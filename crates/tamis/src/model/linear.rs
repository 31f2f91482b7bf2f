//! Weights as they are kept in memory, and the linear layer made of them.

use std::sync::Arc;

use half::{bf16, f16};
use tamis_kernels::Pool;
use tamis_kernels::pack::{
    BITMAP_WORD, BLOCK_SIDE, BitmapData, BitmapKind, BitmapMatrix, BlockData, BlockKind, BlockMatrix,
    DenseF32, DenseHalf, GgmlMatrix, HalfData, PackError, PackedMatrix, RowSource, SievedRows, SievedTiles,
    SparseRows, SparseTiles, TileMatrix,
};

use super::adapter::LowRank;
use crate::error::{Error, Result};
use crate::ops::Ops;
use crate::units::Alpha;

/// A matrix `[out, in]` in the form its file stores it.
#[derive(Debug, Clone)]
pub enum Weight {
    /// f32.
    F32(DenseF32),
    /// f16 or bf16.
    Half(DenseHalf),
    /// Blocks of a GGUF file.
    Ggml(GgmlMatrix),
    /// Quantised integers.
    Packed(PackedMatrix),
    /// Quantised integers and an ortho stream on top.
    Sieved {
        /// The base, which is the whole matrix at alpha = 0.
        base: PackedMatrix,
        /// The residual stream.
        ortho: SparseRows,
    },
    /// Kept weights, and a bit for each weight that says which they are.
    Bitmap(BitmapMatrix),
    /// Kept blocks of 16 x 16.
    Blocks(BlockMatrix),
    /// Kept weights, each with its column.
    Sparse(SparseRows),
    /// Integers of any of these kinds in the order of the kernels that round activations to
    /// int8, and the ortho stream, if there is one. For running only: no file holds it.
    Tiled {
        /// The base.
        base: TileMatrix,
        /// The residual stream.
        ortho: Option<Box<SparseTiles>>,
    },
}

impl Weight {
    /// Output features.
    pub fn rows(&self) -> usize {
        self.with_rows(Alpha::ZERO, |w| w.rows())
    }
    /// Input features.
    pub fn cols(&self) -> usize {
        self.with_rows(Alpha::ZERO, |w| w.cols())
    }
    /// Calls `f` with the matrix at `alpha`. At alpha = 0 a sieved weight *is* its base.
    pub fn with_rows<R>(&self, alpha: Alpha, f: impl FnOnce(&dyn RowSource) -> R) -> R {
        match self {
            Self::F32(w) => f(w),
            Self::Half(w) => f(w),
            Self::Ggml(w) => f(w),
            Self::Packed(w) => f(w),
            Self::Bitmap(w) => f(w),
            Self::Blocks(w) => f(w),
            Self::Sparse(w) => f(w),
            Self::Sieved { base, .. } if alpha == Alpha::ZERO => f(base),
            Self::Sieved { base, ortho } => f(&SievedRows { base, ortho, alpha: alpha.get() }),
            Self::Tiled { base, ortho: Some(ortho) } if alpha != Alpha::ZERO => {
                f(&SievedTiles { base, ortho, alpha: alpha.get() })
            }
            Self::Tiled { base, .. } => f(base),
        }
    }
    /// Itself in the order of the int8 kernels, where these have a layout for it.
    pub fn tiled(self, pool: &Pool) -> Self {
        let (base, ortho) = match &self {
            Self::Packed(w) => (TileMatrix::from_packed(pool, w), None),
            Self::Ggml(w) => (TileMatrix::from_ggml(pool, w), None),
            Self::Sieved { base, ortho } => (TileMatrix::from_packed(pool, base), Some(ortho)),
            _ => (None, None),
        };
        match base {
            Some(base) => Self::Tiled { base, ortho: ortho.map(|o| Box::new(SparseTiles::from_rows(o))) },
            None => self,
        }
    }
    /// The whole matrix as f32 `[out, in]`.
    pub fn to_f32(&self, alpha: Alpha) -> Vec<f32> {
        self.with_rows(alpha, |w| {
            let mut data = vec![0.0; w.rows() * w.cols()];
            data.chunks_exact_mut(w.cols()).enumerate().for_each(|(row, out)| w.decode_row(row, out));
            data
        })
    }
    /// The whole matrix at 16 bits: bf16 where it is bf16, else f16, or bf16 where f16 cannot hold it.
    /// Row by row: an embedding is too large for a second copy in f32.
    pub fn to_half(&self) -> Result<DenseHalf> {
        if let Self::Half(same) = self {
            return Ok(same.clone());
        }
        let half = self.converted(f16::from_f32);
        let data = if half.iter().all(|v| v.is_finite()) {
            HalfData::F16(half)
        } else {
            HalfData::Bf16(self.converted(bf16::from_f32))
        };
        DenseHalf::new(self.rows(), self.cols(), data).map_err(|e| Error::bad_data(e.to_string()))
    }
    fn converted<T>(&self, convert: impl Fn(f32) -> T) -> Vec<T> {
        self.with_rows(Alpha::ONE, |w| {
            let mut row = vec![0.0; w.cols()];
            let mut all = Vec::with_capacity(w.rows() * w.cols());
            for index in 0..w.rows() {
                w.decode_row(index, &mut row);
                all.extend(row.iter().map(|v| convert(*v)));
            }
            all
        })
    }
    /// Whether the layout leaves weights out.
    pub fn is_pruned(&self) -> bool {
        matches!(self, Self::Bitmap(_) | Self::Blocks(_) | Self::Sparse(_))
    }
    /// Which weights are kept, `[out, in]`; none where the layout leaves nothing out.
    pub fn kept(&self) -> Option<Vec<bool>> {
        let (rows, cols) = (self.rows(), self.cols());
        let mut kept = vec![false; rows * cols];
        match self {
            Self::Bitmap(w) => {
                let words = w.bits().chunks_exact(cols.div_ceil(BITMAP_WORD));
                for (words, kept) in words.zip(kept.chunks_exact_mut(cols)) {
                    let flag = |i: usize| words[i / BITMAP_WORD] >> (i % BITMAP_WORD) & 1 == 1;
                    kept.iter_mut().enumerate().for_each(|(i, kept)| *kept = flag(i));
                }
            }
            Self::Blocks(w) => {
                for (row, kept) in kept.chunks_exact_mut(cols).enumerate() {
                    let blocks = &w.starts()[row / BLOCK_SIDE..];
                    for column in &w.columns()[blocks[0] as usize..blocks[1] as usize] {
                        let left = usize::from(*column) * BLOCK_SIDE;
                        kept[left..cols.min(left + BLOCK_SIDE)].fill(true);
                    }
                }
            }
            Self::Sparse(w) => {
                for (row, kept) in kept.chunks_exact_mut(cols).enumerate() {
                    w.row(row).0.iter().for_each(|&column| kept[usize::from(column)] = true);
                }
            }
            _ => return None,
        }
        Some(kept)
    }
    /// The same layout and the same mask with other values, `[out, in]`, rounded as the layout does. Errors: a
    /// value that it cannot hold; a layout of integers that leaves nothing out, which rounding alone would spoil.
    pub fn with_values(&self, values: &[f32]) -> Result<Self> {
        let shape = (self.rows(), self.cols());
        let kept = self.kept().unwrap_or_default();
        let made = match self {
            Self::F32(_) => DenseF32::new(shape.0, shape.1, values.to_vec()).map(Self::F32),
            Self::Half(w) => {
                let data = match w.data() {
                    HalfData::F16(_) => HalfData::F16(values.iter().map(|v| f16::from_f32(*v)).collect()),
                    HalfData::Bf16(_) => HalfData::Bf16(values.iter().map(|v| bf16::from_f32(*v)).collect()),
                };
                DenseHalf::new(shape.0, shape.1, data).map(Self::Half)
            }
            Self::Bitmap(w) => {
                let kind = match w.data() {
                    BitmapData::Bf16(_) => BitmapKind::Bf16,
                    BitmapData::Int8 { group, .. } => BitmapKind::Int8 { group: *group },
                    BitmapData::Int4 { group, .. } => BitmapKind::Int4 { group: *group },
                };
                BitmapMatrix::from_dense(shape, values, &kept, kind).map(Self::Bitmap)
            }
            Self::Blocks(w) => {
                let kind = match w.data() {
                    BlockData::Bf16(_) => BlockKind::Bf16,
                    BlockData::Integers { bits: 4, .. } => BlockKind::Int4,
                    BlockData::Integers { .. } => BlockKind::Int8,
                };
                BlockMatrix::from_dense(shape, values, &w.kept(), kind).map(Self::Blocks)
            }
            Self::Sparse(_) => SparseRows::from_dense(shape, values, &kept).map(Self::Sparse),
            Self::Ggml(_) | Self::Packed(_) | Self::Sieved { .. } | Self::Tiled { .. } => {
                return Err(Error::usage("quantised weights take no other values")
                    .next("train an adapter beside them, or convert them to 16 bits"));
            }
        };
        made.map_err(|e| Error::bad_data(e.to_string()))
    }
    /// The same mask with 16 bits in place of integers; f16 where nothing is left out.
    pub fn widened(&self) -> Result<Self> {
        let shape = (self.rows(), self.cols());
        let bad = |e: PackError| Error::bad_data(e.to_string());
        match self {
            Self::Bitmap(_) => {
                let (values, kept) = (self.to_f32(Alpha::ONE), self.kept().unwrap_or_default());
                let bitmap = BitmapMatrix::from_dense(shape, &values, &kept, BitmapKind::Bf16);
                bitmap.map(Self::Bitmap).map_err(bad)
            }
            Self::Blocks(w) => {
                let blocks =
                    BlockMatrix::from_dense(shape, &self.to_f32(Alpha::ONE), &w.kept(), BlockKind::Bf16);
                blocks.map(Self::Blocks).map_err(bad)
            }
            Self::F32(_) | Self::Half(_) | Self::Sparse(_) => Ok(self.clone()),
            _ => self.to_half().map(Self::Half),
        }
    }
    /// Bytes that a product at `alpha` reads: the ortho stream only where it is used.
    pub fn bytes_at(&self, alpha: Alpha) -> usize {
        match self {
            Self::Sieved { base, .. } if alpha == Alpha::ZERO => base.bytes(),
            Self::Tiled { base, .. } if alpha == Alpha::ZERO => base.bytes(),
            _ => self.bytes(),
        }
    }
    /// Multiply-adds of a product with one row at `alpha`.
    pub fn products_at(&self, alpha: Alpha) -> usize {
        let stream = match self {
            Self::Sieved { ortho, .. } if alpha > Alpha::ZERO => ortho.entries(),
            Self::Tiled { ortho: Some(ortho), .. } if alpha > Alpha::ZERO => ortho.entries(),
            // Skipping weights of a bitmap saves memory, never arithmetic.
            Self::Blocks(w) => return w.columns().len() * BLOCK_SIDE * BLOCK_SIDE,
            Self::Sparse(w) => return w.entries(),
            _ => 0,
        };
        self.rows() * self.cols() + stream
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(w) => w.data().len() * 4,
            Self::Half(w) => w.rows() * w.cols() * 2,
            Self::Ggml(w) => w.bytes(),
            Self::Packed(w) => w.bytes(),
            Self::Bitmap(w) => w.bytes(),
            Self::Blocks(w) => w.bytes(),
            Self::Sparse(w) => w.bytes(),
            Self::Sieved { base, ortho } => base.bytes() + ortho.bytes(),
            Self::Tiled { base, ortho } => base.bytes() + ortho.as_ref().map_or(0, |o| o.bytes()),
        }
    }
}

/// `y = x W^T + b`, and what an adapter adds.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Vec<f32>>,
    /// A low-rank addition; those who share a model choose one each.
    pub adapter: Option<Arc<LowRank>>,
}

impl Linear {
    /// Without an adapter.
    pub fn new(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias, adapter: None }
    }
    /// `y [m, out]` of `x [m, in]`.
    pub fn apply(&self, ops: &dyn Ops, x: &[f32], alpha: Alpha) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.weight.cols() * self.weight.rows()];
        ops.linear(x, self, alpha, &mut y);
        self.adapt(ops, x, &mut y);
        y
    }
    /// Adds what the adapter adds.
    pub fn adapt(&self, ops: &dyn Ops, x: &[f32], y: &mut [f32]) {
        if let Some(adapter) = &self.adapter {
            adapter.add(ops, x, y);
        }
    }
    /// Puts the weight into the form that `ops` multiplies fastest.
    pub fn prepare(&mut self, ops: &dyn Ops) {
        let nothing = Weight::F32(DenseF32::default());
        self.weight = ops.prepare(std::mem::replace(&mut self.weight, nothing));
    }
    /// Bytes that one application at `alpha` reads, the bias included.
    pub fn bytes_at(&self, alpha: Alpha) -> usize {
        let adapter = self.adapter.as_ref().map_or(0, |adapter| adapter.bytes());
        adapter + self.weight.bytes_at(alpha) + self.bias.as_ref().map_or(0, |b| size_of_val(&b[..]))
    }
}

/// Weights of a norm.
#[derive(Debug, Clone)]
pub struct NormWeights {
    /// Factor, `[n]`.
    pub scale: Vec<f32>,
    /// Addend, `[n]` (layer norm).
    pub bias: Option<Vec<f32>>,
}

impl NormWeights {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.scale[..]) + self.bias.as_ref().map_or(0, |b| size_of_val(&b[..]))
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn an_unused_ortho_stream_is_neither_read_nor_multiplied() {
        let scales = vec![f16::ONE; 2];
        let base = PackedMatrix::from_codes((2, 32), 4, 32, &[1; 64], scales, None).unwrap();
        let ortho = SparseRows::new((2, 32), vec![0, 1, 3], vec![5, 0, 31], vec![f16::ONE; 3]).unwrap();
        let (base_bytes, ortho_bytes) = (2 * 16 + 2 * 2, 3 * 4 + 3 * 4);
        let weight = Weight::Sieved { base, ortho };
        assert_eq!((weight.bytes_at(Alpha::ZERO), weight.products_at(Alpha::ZERO)), (base_bytes, 64));
        for alpha in [Alpha::new(0.5).unwrap(), Alpha::ONE] {
            assert_eq!(weight.bytes_at(alpha), base_bytes + ortho_bytes);
            assert_eq!(weight.products_at(alpha), 64 + 3);
        }
        let linear = Linear::new(weight, Some(vec![0.0; 2]));
        assert_eq!(linear.bytes_at(Alpha::ZERO), base_bytes + 8);
    }
}
