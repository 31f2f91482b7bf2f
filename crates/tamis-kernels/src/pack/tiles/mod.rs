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
use crate::aligned::{Aligned, numbers};

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
    /// `[tile][block][block_bytes]`; zeros behind the last row and column.
    codes: Aligned,
    /// `[tile][group][16]`; zeros behind the last row.
    scales: Vec<f16>,
    offsets: Offsets,
}

/// What is taken off a code, or added to a weight.
#[derive(Clone, PartialEq)]
pub(crate) enum Offsets {
    /// `z = 2^(bits - 1)` everywhere.
    Middle,
    /// `z`, `[tile][group][16]`.
    Zeros(Vec<u8>),
    /// `m`, `[tile][group][16]`.
    Minima(Vec<f16>),
}

impl std::fmt::Debug for TileMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, cols, bits, block, per_group, .. } = self;
        write!(f, "TileMatrix {{ {rows}x{cols}, {bits} bits, {per_group} blocks of {block} a group }}")
    }
}

impl TileMatrix {
    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        self.bits
    }
    /// Bytes of codes, scales and offsets.
    pub fn bytes(&self) -> usize {
        let offsets = match &self.offsets {
            Offsets::Middle => 0,
            Offsets::Zeros(zeros) => zeros.len(),
            Offsets::Minima(minima) => minima.len() * 2,
        };
        self.tiles() * self.blocks() * self.block_bytes() + self.scales.len() * 2 + offsets
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
    /// Codes of all blocks of a tile.
    pub(crate) fn tile_codes(&self, tile: usize) -> &[u8] {
        let bytes = self.blocks() * self.block_bytes();
        &numbers::<u8>(self.codes.all())[tile * bytes..][..bytes]
    }
    /// Scales of a tile, `[group][16]`.
    pub(crate) fn tile_scales(&self, tile: usize) -> &[f16] {
        let len = self.groups() * TILE;
        &self.scales[tile * len..][..len]
    }
    /// Offsets of all tiles.
    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
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
        let blocks = self.tile_codes(tile).chunks_exact(self.block_bytes());
        let groups = self.groups();
        for (index, (codes, out)) in blocks.zip(out.chunks_mut(self.block)).enumerate() {
            let group = index / self.per_group;
            let scale = self.tile_scales(tile)[group * TILE + lane].to_f32();
            let at = (tile * groups + group) * TILE + lane;
            let (zero, minimum) = match &self.offsets {
                Offsets::Middle => (self.middle(), None),
                Offsets::Zeros(zeros) => (i32::from(zeros[at]), None),
                Offsets::Minima(minima) => (0, Some(minima[at].to_f32())),
            };
            for (column, out) in out.iter_mut().enumerate() {
                let code =
                    planes(self.bits, self.block).fold(0, |code, p| code | p.code(codes, lane, column));
                *out = scale * (i32::from(code) - zero) as f32;
                if let Some(minimum) = minimum {
                    *out += minimum;
                }
            }
        }
    }
}
