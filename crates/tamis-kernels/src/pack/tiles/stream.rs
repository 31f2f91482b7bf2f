//! The ortho stream in the order in which tiles are multiplied. Made from sparse rows when
//! a model is loaded; knows no product.
//!
//! A tile of 16 rows is cut into *ranks*: rank `r` holds the `r`-th entry of every row that has
//! so many, one after the other, and a mask that says which rows those are. So a rank is one
//! expansion and one addition of 16 lanes, and a row's entries keep their order.

use half::f16;
use half::slice::HalfBitsSliceExt;

use super::TILE;
use crate::aligned::{Line, numbers, numbers_mut};
use crate::pack::SparseRows;
use crate::slab::Slab;

/// A sparse matrix `[rows = out, cols = in]` in tiles of 16 rows.
#[derive(Debug, Clone)]
pub struct SparseTiles {
    rows: usize,
    cols: usize,
    entries: usize,
    /// Where a tile starts in `data`, `[tiles + 1]`.
    starts: Vec<usize>,
    /// For each tile, side by side, so that it comes from memory as one piece: the number of ranks
    /// (low and high half), their masks, and columns and values of the entries; then zeros up to a
    /// whole line.
    data: Slab,
}

/// One tile of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Rows that have an entry of a rank, `[ranks]`.
    pub(crate) masks: &'a [u16],
    pub(crate) columns: &'a [u16],
    pub(crate) values: &'a [f16],
}

impl SparseTiles {
    /// The same entries in kernel order.
    pub fn from_rows(sparse: &SparseRows) -> Self {
        let (rows, cols) = (sparse.rows(), sparse.cols());
        let (mut starts, mut data) = (vec![0], Vec::new());
        for first in (0..rows).step_by(TILE) {
            let tile: Vec<_> = (first..(first + TILE).min(rows)).map(|row| sparse.row(row)).collect();
            let (mut masks, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for rank in 0..tile.iter().map(|row| row.0.len()).max().unwrap_or(0) {
                let mut mask = 0;
                for (lane, row) in tile.iter().enumerate().filter(|(_, row)| rank < row.0.len()) {
                    mask |= 1u16 << lane;
                    columns.push(row.0[rank]);
                    values.push(row.1[rank].to_bits());
                }
                masks.push(mask);
            }
            data.extend([masks.len() as u16, (masks.len() >> 16) as u16]);
            data.extend(masks.into_iter().chain(columns).chain(values));
            starts.push(data.len());
        }
        let mut lines = Slab::zeroed(size_of_val(&data[..]).div_ceil(size_of::<Line>()));
        numbers_mut(&mut lines)[..data.len()].copy_from_slice(&data);
        Self { rows, cols, entries: sparse.entries(), starts, data: lines }
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
        self.entries
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.starts[..]) + size_of_val(&self.data[..])
    }
    /// All that is stored of some tiles.
    pub(crate) fn data_of(&self, tiles: std::ops::Range<usize>) -> &[u16] {
        &numbers(&self.data)[self.starts[tiles.start]..self.starts[tiles.end]]
    }
    pub(crate) fn tile(&self, tile: usize) -> Tile<'_> {
        let (head, rest) = self.data_of(tile..tile + 1).split_at(2);
        let (masks, entries) = rest.split_at(usize::from(head[0]) | usize::from(head[1]) << 16);
        let (columns, values) = entries.split_at(entries.len() / 2);
        Tile { masks, columns, values: values.reinterpret_cast() }
    }
    /// Adds `alpha` times row `row` to `out`.
    pub(crate) fn add_row(&self, row: usize, alpha: f32, out: &mut [f32]) {
        let tile = self.tile(row / TILE);
        let (lane, mut at) = (row % TILE, 0);
        for mask in tile.masks {
            if mask >> lane & 1 == 1 {
                let entry = at + (mask & ((1 << lane) - 1)).count_ones() as usize;
                out[usize::from(tile.columns[entry])] += alpha * tile.values[entry].to_f32();
            }
            at += mask.count_ones() as usize;
        }
    }
}
