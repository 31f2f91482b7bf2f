//! Weight layouts. Every constructor checks its lengths once, so kernels may
//! index without doubt; every layout can decode any of its rows to f32, which
//! is all that the matrix product needs to know.

mod bitmap;
mod blocks;
mod decode;
mod dense;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod dots;
mod ggml;
mod ggml_k;
mod integers;
mod sieved;
mod sparse;
pub(crate) mod tiles;

pub use bitmap::{BITMAP_WORD, BitmapData, BitmapKind, BitmapMatrix};
pub(crate) use blocks::BLOCK_WEIGHTS;
pub use blocks::{BLOCK_SIDE, BlockData, BlockKind, BlockMatrix};
pub use dense::{DenseF32, DenseHalf, F32Rows, HalfData};
pub use ggml::{GgmlMatrix, GgmlType};
pub use integers::{PackedMatrix, packed_words};
pub use sieved::{SievedRows, SievedTiles};
pub use sparse::SparseRows;
pub use tiles::{SparseTiles, TileMatrix};

use std::ops::Range;

use half::{bf16, f16};

use crate::isa::Isa;

/// Why a packed layout could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackError(pub String);

impl std::fmt::Display for PackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PackError {}

/// A weight matrix `W [rows = out, cols = in]` that can hand out its rows as f32.
///
/// The decoded values are the definition of the matrix: every product, on every
/// instruction set, is a product with exactly these numbers, or with those of its `parts`.
pub trait RowSource: Sync {
    /// Output features.
    fn rows(&self) -> usize;
    /// Input features.
    fn cols(&self) -> usize;
    /// Writes row `row` into `out` (`out.len() == self.cols()`).
    fn decode_row(&self, row: usize, out: &mut [f32]);
    /// `y[i] = x . W[rows.start + i]`, the bits of the matrix product on decoded rows, straight
    /// from what is stored. `false`, and `y` untouched, where there is no such way on `isa`.
    fn dots(&self, _isa: Isa, _x: &[f32], _rows: Range<usize>, _y: &mut [f32]) -> bool {
        false
    }
    /// The same with x in bf16, the bits of the product by bf16 pairs on rows rounded to bf16.
    fn dots_bf16(&self, _isa: Isa, _x: &[bf16], _rows: Range<usize>, _y: &mut [f32]) -> bool {
        false
    }
    /// A dense part and a sparse one with its factor, where the matrix is stored as their sum: the
    /// product is then the sum of both products.
    fn parts(&self) -> Option<(&dyn RowSource, &SparseRows, f32)> {
        None
    }
    /// The matrix as kept blocks, where it is stored like that: the product then leaves the
    /// others out.
    fn as_blocks(&self) -> Option<&BlockMatrix> {
        None
    }
    /// The matrix as sparse rows, where it is stored like that: the product is then that of its entries.
    fn as_sparse(&self) -> Option<&SparseRows> {
        None
    }
    /// The rows as one f32 slice, where they are already stored like that.
    fn as_f32(&self) -> Option<&[f32]> {
        None
    }
    /// The rows as one bf16 slice, where they are already stored like that.
    fn as_bf16(&self) -> Option<&[bf16]> {
        None
    }
    /// Writes row `row`, rounded to bf16. `false`, and `out` untouched, where `decode_row` and
    /// rounding are as good.
    fn decode_bf16(&self, _isa: Isa, _row: usize, _out: &mut [bf16]) -> bool {
        false
    }
}

/// The scale of a symmetric grid that reaches the largest weight at code `most`.
fn symmetric_scale<'a>(weights: impl Iterator<Item = &'a f32>, most: f32) -> Result<f16, PackError> {
    // A NaN is larger than all in the order of `total_cmp`, if its sign is taken off.
    let largest = weights.map(|w| w.abs()).max_by(f32::total_cmp).unwrap_or(0.0);
    let scale = f16::from_f32(largest / most);
    if scale.is_finite() {
        Ok(scale)
    } else {
        Err(PackError(format!("no grid reaches a weight of {largest}")))
    }
}

/// The code of the point of that grid that is nearest to a weight.
fn symmetric_code(weight: f32, scale: f16, most: f32) -> i32 {
    // Weights that are too small for a scale are zero, and so is their quotient's place.
    let scale = scale.to_f32();
    if scale == 0.0 { 0 } else { (weight / scale).round_ties_even().clamp(-most, most) as i32 }
}

#[cfg(test)]
mod tests;
