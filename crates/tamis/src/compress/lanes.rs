//! Sixteen rows of a weight matrix side by side, one lane a row, so that everything
//! the column sweep does is the same operation on all lanes and no sum ever runs
//! across them. It knows nothing about what is done with the rows.
//!
//! Rows are independent in GPTQ (Frantar 2022, arXiv 2210.17323, step 1), so the
//! strip a row falls in cannot change its result.

use super::order::Order;

/// Rows in a strip: four SSE, two AVX or one AVX-512 register.
pub const LANES: usize = 16;

/// One column of a strip.
pub type Lanes = [f32; LANES];

/// A weight matrix `[rows = out, cols = in]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// All values.
    pub data: &'a [f32],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Weights<'_> {
    /// Strips that the rows fill; the last may be short.
    pub fn strips(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Rows of strip `strip`.
    pub fn rows_of(&self, strip: usize) -> std::ops::Range<usize> {
        strip * LANES..self.rows.min((strip + 1) * LANES)
    }

    /// Strip `strip`, column `order.original(p)` at position `p`; missing rows are zero.
    pub fn gather(&self, strip: usize, order: &Order) -> Vec<Lanes> {
        let mut columns = vec![[0.0; LANES]; self.cols];
        for (lane, row) in self.rows_of(strip).enumerate() {
            let row = &self.data[row * self.cols..][..self.cols];
            for (p, column) in columns.iter_mut().enumerate() {
                column[lane] = row[order.original(p)];
            }
        }
        columns
    }
}

/// `f(lane)` for every lane.
pub fn each(f: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}
