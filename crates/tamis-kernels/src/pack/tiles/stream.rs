//! The ortho stream in the order in which tiles are multiplied. Made from sparse rows when
//! a model is loaded; knows no product.
//!
//! A tile of 16 rows is cut into *ranks*: rank `r` holds the `r`-th entry of every row that has
//! so many, one after the other, and a mask that says which rows those are. So a rank is one
//! expansion and one addition of 16 lanes, and a row's entries keep their order.

use half::f16;

use super::TILE;
use crate::pack::SparseRows;

/// A sparse matrix `[rows = out, cols = in]` in tiles of 16 rows.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseTiles {
    rows: usize,
    cols: usize,
    /// First entry of a tile, `[tiles + 1]`.
    entries: Vec<u32>,
    /// First rank of a tile, `[tiles + 1]`.
    ranks: Vec<u32>,
    /// Rows that have an entry of a rank, `[ranks]`.
    masks: Vec<u16>,
    columns: Vec<u16>,
    values: Vec<f16>,
}

/// Some tiles of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    /// Ranks before each tile and behind the last, counted from the first tile of the matrix.
    pub(crate) ranks: &'a [u32],
    /// Masks of those ranks, from the first of the span on.
    pub(crate) masks: &'a [u16],
    pub(crate) columns: &'a [u16],
    pub(crate) values: &'a [f16],
}

impl SparseTiles {
    /// The same entries in kernel order.
    pub fn from_rows(sparse: &SparseRows) -> Self {
        let (rows, cols) = (sparse.rows(), sparse.cols());
        let (mut entries, mut ranks, mut masks) = (vec![0], vec![0], Vec::new());
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(TILE) {
            let tile: Vec<_> = (first..(first + TILE).min(rows)).map(|row| sparse.row(row)).collect();
            for rank in 0..tile.iter().map(|row| row.0.len()).max().unwrap_or(0) {
                let mut mask = 0;
                for (lane, row) in tile.iter().enumerate().filter(|(_, row)| rank < row.0.len()) {
                    mask |= 1 << lane;
                    columns.push(row.0[rank]);
                    values.push(row.1[rank]);
                }
                masks.push(mask);
            }
            // A sparse matrix counts its entries, of which ranks are not more, in 32 bits.
            entries.push(columns.len() as u32);
            ranks.push(masks.len() as u32);
        }
        Self { rows, cols, entries, ranks, masks, columns, values }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Entries.
    pub fn entries(&self) -> usize {
        self.columns.len()
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        (self.entries.len() + self.ranks.len() + self.columns.len()) * 4 + self.masks.len() * 2
    }
    pub(crate) fn span(&self, tiles: std::ops::Range<usize>) -> Span<'_> {
        let entries = self.entries[tiles.start] as usize..self.entries[tiles.end] as usize;
        let ranks = self.ranks[tiles.start] as usize..self.ranks[tiles.end] as usize;
        Span {
            ranks: &self.ranks[tiles.start..=tiles.end],
            masks: &self.masks[ranks],
            columns: &self.columns[entries.clone()],
            values: &self.values[entries],
        }
    }
    /// Adds `alpha` times row `row` to `out`.
    pub(crate) fn add_row(&self, row: usize, alpha: f32, out: &mut [f32]) {
        let span = self.span(row / TILE..row / TILE + 1);
        let (lane, mut at) = (row % TILE, 0);
        for mask in span.masks {
            if mask >> lane & 1 == 1 {
                let entry = at + (mask & ((1 << lane) - 1)).count_ones() as usize;
                out[usize::from(span.columns[entry])] += alpha * span.values[entry].to_f32();
            }
            at += mask.count_ones() as usize;
        }
    }
}
