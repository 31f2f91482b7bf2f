//! What is left out of a pruned tensor, counted from its structure a strip of 16 rows at a time. Knows no file and
//! no weight's value.
//!
//! Nothing here has the size of the matrix: of blocks and sparse rows a file backs what is kept, not the places.

use std::collections::BTreeMap;

use serde::Serialize;
use tamis_kernels::pack::{BITMAP_WORD, BLOCK_SIDE};

use crate::model::Weight;

/// What is left out of a pruned tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Holes {
    /// Weights that are kept.
    pub kept: usize,
    /// Share of the weights that are not.
    pub sparsity: f64,
    /// Outputs of which no weight is kept.
    pub dead_outputs: usize,
    /// Inputs of which no weight is kept.
    pub dead_inputs: usize,
    /// What its blocks of 16 x 16 look like.
    pub blocks: Blocks,
}

/// Blocks of 16 x 16 of a mask, by what is kept of them; the last of a row or a column may be smaller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// Everything.
    pub dense: usize,
    /// Two of every four neighbours of each row.
    pub two_of_four: usize,
    /// Something else.
    pub thinned: usize,
    /// Nothing.
    pub removed: usize,
}

/// The blocks of a strip that keep any weight, by their column: a bit for each weight of each row, the first lowest.
type Strip = BTreeMap<usize, [u16; BLOCK_SIDE]>;

impl Blocks {
    /// Counts a block of so many columns, of which something is kept.
    fn add(&mut self, rows: &[u16], width: usize) {
        let two = |bits: &u16| (0..width).step_by(4).all(|at| ((bits >> at) & 0xf).count_ones() == 2);
        let count = if rows.iter().all(|bits| *bits == whole(width)) {
            &mut self.dense
        } else if width.is_multiple_of(4) && rows.iter().all(two) {
            &mut self.two_of_four
        } else {
            &mut self.thinned
        };
        *count += 1;
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            dense: self.dense + other.dense,
            two_of_four: self.two_of_four + other.two_of_four,
            thinned: self.thinned + other.thinned,
            removed: self.removed + other.removed,
        }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.dense + self.two_of_four + self.thinned + self.removed
    }
}

impl Holes {
    /// None where the layout leaves nothing out.
    pub(super) fn of(weight: &Weight) -> Option<Self> {
        if !weight.is_pruned() {
            return None;
        }
        let (rows, cols) = (weight.rows(), weight.cols());
        let across = cols.div_ceil(BLOCK_SIDE);
        let (mut kept, mut live_outputs, mut blocks) = (0, 0, Blocks::default());
        // Of each block of columns, those that any row keeps. A matrix without rows may claim any width.
        let mut inputs = vec![0u16; if rows == 0 { 0 } else { across }];
        for top in (0..rows).step_by(BLOCK_SIDE) {
            let height = BLOCK_SIDE.min(rows - top);
            let strip = strip(weight, top..top + height);
            let mut live = [false; BLOCK_SIDE];
            for (&column, of_rows) in &strip {
                for (live, bits) in live.iter_mut().zip(of_rows) {
                    *live |= *bits != 0;
                    kept += bits.count_ones() as usize;
                    inputs[column] |= *bits;
                }
                blocks.add(&of_rows[..height], BLOCK_SIDE.min(cols - column * BLOCK_SIDE));
            }
            live_outputs += live.iter().filter(|live| **live).count();
            blocks.removed += across - strip.len();
        }
        let live_inputs: usize = inputs.iter().map(|bits| bits.count_ones() as usize).sum();
        Some(Self {
            kept,
            sparsity: 1.0 - kept as f64 / (rows * cols).max(1) as f64,
            dead_outputs: rows - live_outputs,
            dead_inputs: cols - live_inputs,
            blocks,
        })
    }
}

/// All weights of a row of a block of so many columns.
fn whole(width: usize) -> u16 {
    u16::MAX >> (BLOCK_SIDE - width)
}

/// What is kept of at most 16 rows, the first of them the first of a strip.
fn strip(weight: &Weight, rows: std::ops::Range<usize>) -> Strip {
    let cols = weight.cols();
    let mut strip = Strip::new();
    match weight {
        Weight::Bitmap(w) => {
            let per_row = cols.div_ceil(BITMAP_WORD);
            for (lane, row) in rows.enumerate() {
                let words = w.bits()[row * per_row..][..per_row].iter();
                let halves = words.flat_map(|word| [*word as u16, (*word >> BLOCK_SIDE) as u16]);
                for (column, bits) in halves.enumerate().filter(|(_, bits)| *bits != 0) {
                    strip.entry(column).or_default()[lane] = bits;
                }
            }
        }
        Weight::Blocks(w) => {
            let blocks = &w.starts()[rows.start / BLOCK_SIDE..][..2];
            for &column in &w.columns()[blocks[0] as usize..blocks[1] as usize] {
                let column = usize::from(column);
                let bits = whole(BLOCK_SIDE.min(cols - column * BLOCK_SIDE));
                strip.entry(column).or_default()[..rows.len()].fill(bits);
            }
        }
        Weight::Sparse(w) => {
            for (lane, row) in rows.enumerate() {
                for &column in w.row(row).0 {
                    let column = usize::from(column);
                    strip.entry(column / BLOCK_SIDE).or_default()[lane] |= 1 << (column % BLOCK_SIDE);
                }
            }
        }
        _ => {}
    }
    strip
}

#[cfg(test)]
mod tests {
    use tamis_kernels::pack::{BitmapData, BitmapMatrix, BlockData, BlockMatrix, SparseRows};

    use super::*;

    /// 2^40 places in a few hundred kilobytes, and a width without a row.
    #[test]
    fn what_no_file_backs_is_not_allocated() {
        let side = 1 << 20;
        let strips = side / BLOCK_SIDE;
        let blocks =
            BlockMatrix::from_parts((side, side), vec![0; strips + 1], vec![], BlockData::Bf16(vec![]));
        let holes = Holes::of(&Weight::Blocks(blocks.unwrap())).unwrap();
        assert_eq!((holes.kept, holes.sparsity, holes.dead_outputs, holes.dead_inputs), (0, 1.0, side, side));
        assert_eq!((holes.blocks.removed, holes.blocks.total()), (strips * strips, strips * strips));

        let sparse = SparseRows::new((side, 1 << 16), vec![0; side + 1], vec![], vec![]).unwrap();
        let holes = Holes::of(&Weight::Sparse(sparse)).unwrap();
        assert_eq!((holes.dead_outputs, holes.blocks.removed), (side, strips << 12));

        let bitmap = BitmapMatrix::from_parts((0, 1 << 50), vec![], vec![0], BitmapData::Bf16(vec![]));
        let holes = Holes::of(&Weight::Bitmap(bitmap.unwrap())).unwrap();
        assert_eq!((holes.kept, holes.dead_inputs, holes.blocks.total()), (0, 1 << 50, 0));
    }
}
