//! Base plus ortho at a fixed alpha, seen as one matrix: `W = base + alpha * ortho`.
//!
//! A product with it is the sum of two products: the base's, by the base's own kernel, and
//! the stream's. At alpha = 0 callers use the base itself: same bytes, same kernel.

use super::tiles::{SparseTiles, TileMatrix};
use super::{PackedMatrix, RowSource, SparseRows};

/// A view of a base and its ortho stream at one alpha.
#[derive(Debug, Clone, Copy)]
pub struct SievedRows<'a> {
    /// Quantised base.
    pub base: &'a PackedMatrix,
    /// Residual stream of the same shape.
    pub ortho: &'a SparseRows,
    /// Share of the stream that is added.
    pub alpha: f32,
}

impl RowSource for SievedRows<'_> {
    fn rows(&self) -> usize {
        self.base.rows()
    }
    fn cols(&self) -> usize {
        self.base.cols()
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.base.decode_row(row, out);
        self.ortho.add_row(row, self.alpha, out);
    }
    fn parts(&self) -> Option<(&dyn RowSource, &SparseRows, f32)> {
        Some((self.base, self.ortho, self.alpha))
    }
}

/// The same for weights in kernel order. Only decodes rows: their product is that of `quantized`.
#[derive(Debug, Clone, Copy)]
pub struct SievedTiles<'a> {
    /// Quantised base.
    pub base: &'a TileMatrix,
    /// Residual stream of the same shape.
    pub ortho: &'a SparseTiles,
    /// Share of the stream that is added.
    pub alpha: f32,
}

impl RowSource for SievedTiles<'_> {
    fn rows(&self) -> usize {
        self.base.rows()
    }
    fn cols(&self) -> usize {
        self.base.cols()
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.base.decode_row(row, out);
        self.ortho.add_row(row, self.alpha, out);
    }
}
