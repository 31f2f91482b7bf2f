//! Integer weights in the order in which kernels read them: tiles of 16 rows, cut into
//! blocks of 32 or 64 columns. Made from an interchange layout when a model is loaded,
//! which is then dropped; knows no product.
//!
//! `w[o, i] = s[o, g] * (c[o, i] - z[o, g])` or `s[o, g] * c[o, i] + m[o, g]`, with codes `c` of
//! `bits` bits and groups `g` of whole blocks (or the whole row).
//!
//! The trick: four columns of 16 rows (a *quad*) are 64 bytes, `[row][column]`, which is what
//! `vpdpbusd` multiplies with four broadcast activations, one row a lane, and what one
//! row of an AMX tile holds. Codes of fewer than 8 bits share those bytes (`planes`).

mod build;
mod planes;
mod stream;
#[cfg(test)]
mod tests;

use half::f16;

use planes::planes;
pub(crate) use planes::quad_of;
pub use stream::SparseTiles;

use super::RowSource;
use crate::aligned::{LINE, Line, numbers, prefetch};
use crate::slab::Slab;

/// Rows of a tile.
pub(crate) const TILE: usize = 16;
/// Columns of a quad.
pub(crate) const QUAD: usize = 4;
/// Bytes of a quad that is not packed any more: 16 rows of 4 codes.
pub(crate) const QUAD_BYTES: usize = TILE * QUAD;

/// Integer weights `[rows = out, cols = in]` in kernel order.
#[derive(Clone)]
pub struct TileMatrix {
    rows: usize,
    cols: usize,
    bits: u32,
    /// Columns of a block: 32 or 64.
    block: usize,
    /// Blocks that share a scale.
    per_group: usize,
    offsets: Offsets,
    /// For each tile, side by side, so that it is read as one piece: codes
    /// `[block][block_bytes]`, scales `[group][16]` as f16, and offsets `[group][16]`; zeros behind the
    /// last row and column, and up to a whole line.
    data: Slab,
}

/// What is taken off a code, or added to a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offsets {
    /// `z = 2^(bits - 1)` everywhere.
    Middle,
    /// `z`, a byte for each group of a row.
    Zeros,
    /// `m`, an f16 for each group of a row.
    Minima,
}

/// One tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// `[block][block_bytes]`.
    pub(crate) codes: &'a [u8],
    /// `[group][16]`.
    pub(crate) scales: &'a [f16],
    /// `[group][16]`, where the offsets are zero codes.
    pub(crate) zeros: Option<&'a [u8]>,
    /// `[group][16]`, where the offsets are minima.
    pub(crate) minima: Option<&'a [f16]>,
}

impl std::fmt::Debug for TileMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, cols, bits, block, per_group, .. } = self;
        write!(f, "TileMatrix {{ {rows}x{cols}, {bits} bits, {per_group} blocks of {block} a group }}")
    }
}

impl Offsets {
    /// Bytes for each group of a row.
    fn bytes(self) -> usize {
        match self {
            Self::Middle => 0,
            Self::Zeros => 1,
            Self::Minima => size_of::<f16>(),
        }
    }
}

impl TileMatrix {
    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        self.bits
    }
    /// Bytes of codes, scales and offsets.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }
    /// Tiles of 16 rows.
    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }
    /// Columns of a block: 32 or 64.
    pub(crate) fn block(&self) -> usize {
        self.block
    }
    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.cols.div_ceil(self.block)
    }
    /// Groups of a row.
    pub(crate) fn groups(&self) -> usize {
        self.blocks().div_ceil(self.per_group)
    }
    /// Blocks of a group.
    pub(crate) fn per_group(&self) -> usize {
        self.per_group
    }
    /// Bytes of a block of a tile.
    pub(crate) fn block_bytes(&self) -> usize {
        TILE * self.block * self.bits as usize / 8
    }
    /// Lines of a tile.
    #[inline]
    fn tile_lines(&self) -> usize {
        let per_group = size_of::<f16>() + self.offsets.bytes();
        (self.blocks() * self.block_bytes() + self.groups() * TILE * per_group).div_ceil(size_of::<Line>())
    }
    #[inline]
    pub(crate) fn tile(&self, tile: usize) -> Tile<'_> {
        let (lines, units) = (self.tile_lines(), self.groups() * TILE);
        let bytes = numbers::<u8>(&self.data[tile * lines..][..lines]);
        let (codes, rest) = bytes.split_at(self.blocks() * self.block_bytes());
        let (scales, rest) = rest.split_at(units * size_of::<f16>());
        let offsets = &rest[..units * self.offsets.bytes()];
        Tile {
            codes,
            scales: bytemuck::cast_slice(scales),
            zeros: (self.offsets == Offsets::Zeros).then_some(offsets),
            minima: (self.offsets == Offsets::Minima).then(|| bytemuck::cast_slice(offsets)),
        }
    }
    /// Asks for the scales and offsets of a tile; of one behind the last, for nothing of use.
    #[inline(always)]
    pub(crate) fn prefetch_units(&self, tile: usize) {
        let lines = self.tile_lines();
        for line in self.blocks() * self.block_bytes() / LINE..lines {
            prefetch(self.data.as_ptr().wrapping_add(tile * lines + line));
        }
    }
    /// What the offsets are.
    pub(crate) fn offsets(&self) -> Offsets {
        self.offsets
    }
    /// The zero code that all weights share, or 0 where the offset is another.
    pub(crate) fn middle(&self) -> i32 {
        if self.offsets == Offsets::Middle { 1 << (self.bits - 1) } else { 0 }
    }
    /// Unpacks quad `quad` of a block to `[row][column]`.
    pub(crate) fn unpack_quad(&self, block: &[u8], quad: usize, out: &mut [u8; QUAD_BYTES]) {
        out.fill(0);
        for plane in planes(self.bits, self.block) {
            plane.read(block, quad, out);
        }
    }
}

impl RowSource for TileMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let (tile, lane) = (row / TILE, row % TILE);
        let tile = self.tile(tile);
        let blocks = tile.codes.chunks_exact(self.block_bytes());
        for (index, (codes, out)) in blocks.zip(out.chunks_mut(self.block)).enumerate() {
            let at = index / self.per_group * TILE + lane;
            let scale = tile.scales[at].to_f32();
            let zero = tile.zeros.map_or(self.middle(), |zeros| i32::from(zeros[at]));
            for (column, out) in out.iter_mut().enumerate() {
                let code =
                    planes(self.bits, self.block).fold(0, |code, p| code | p.code(codes, lane, column));
                *out = scale * (i32::from(code) - zero) as f32;
                if let Some(minima) = tile.minima {
                    *out += minima[at].to_f32();
                }
            }
        }
    }
}
