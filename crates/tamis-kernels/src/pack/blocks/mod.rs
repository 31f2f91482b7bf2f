//! A matrix of which whole blocks of 16 x 16 weights are kept and the others are zero. Knows
//! no score and no file.
//!
//! Blocks stand in the order of the strips (16 rows each), and by column within a strip: CSR of
//! blocks. Inside a block weights stand as a multiplication takes them, all 16 rows side by side,
//! so that a vector of sums is a strip of outputs and nothing is added across lanes:
//! bf16 `[k / 2 = 8][16 rows][2]` (`vdpbf16ps`), 8 bits `[4][16 rows][4]`, 4 bits
//! `[2][16 rows][8]`. Rows and columns behind the matrix are zeros. Two neighbours of a strip
//! are one tile of 16 x 32.
//!
//! Integers are symmetric with a scale for each row of a block: `w = scale[block, row] * code`;
//! 9 bits a kept weight, or 5. A scale of its own for 16 weights costs one bit each, and kept
//! blocks need no neighbours to share it with.

mod checks;

use half::{bf16, f16};

use super::{PackError, RowSource, symmetric_code, symmetric_scale};
use crate::lanes::{Lanes, Portable};

/// Rows and columns of a block.
pub const BLOCK_SIDE: usize = 16;
/// Weights of a block.
pub(crate) const BLOCK_WEIGHTS: usize = BLOCK_SIDE * BLOCK_SIDE;

/// How the weights of kept blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// bfloat16.
    Bf16,
    /// Signed integers of 8 bits, 9 bits a weight with their scales.
    Int8,
    /// Signed integers of 4 bits, 5 bits a weight with their scales.
    Int4,
}

/// The weights of all kept blocks, in the order of the module text.
#[derive(Debug, Clone, PartialEq)]
pub enum BlockData {
    /// `[blocks, 8, 16, 2]`.
    Bf16(Vec<bf16>),
    /// Two's complement codes of 4 or 8 bits.
    Integers {
        /// Bits of a code: 4 or 8.
        bits: u32,
        /// Codes, least significant bits first: `[blocks, bits / 2, 16]` words of `32 / bits` codes.
        words: Vec<u32>,
        /// Scales, `[blocks, 16 rows]`.
        scales: Vec<f16>,
    },
}

/// A matrix `[rows = out, cols = in]` of kept blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMatrix {
    rows: usize,
    cols: usize,
    starts: Vec<u32>,  // [strips + 1]
    columns: Vec<u16>, // [blocks], in blocks, ascending in a strip
    data: BlockData,
}

impl BlockMatrix {
    /// Takes weights `[rows, cols]`, row-major, and which blocks are kept
    /// (`[rows / 16, cols / 16]`, both rounded up); a kept block may well hold zeros. Integers
    /// are rounded to the nearest of a symmetric grid that reaches the largest weight of the row.
    ///
    /// # Errors
    /// Lengths that do not agree; more columns or blocks than the indices can name; for integers,
    /// a weight that is not finite or too large for an f16 scale.
    pub fn from_dense(
        shape: (usize, usize),
        weights: &[f32],
        kept: &[bool],
        kind: BlockKind,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        let (strips, across) = (rows.div_ceil(BLOCK_SIDE), cols.div_ceil(BLOCK_SIDE));
        if rows.checked_mul(cols) != Some(weights.len()) || kept.len() != strips * across {
            let (weights, kept) = (weights.len(), kept.len());
            return Err(PackError(format!("{weights} weights and {kept} blocks for a {rows}x{cols} matrix")));
        }
        checks::indices(cols, kept.iter().filter(|kept| **kept).count())?;
        let (mut starts, mut columns) = (vec![0], Vec::new());
        let mut data = BlockData::empty(kind);
        for (strip, kept) in kept.chunks(across.max(1)).enumerate() {
            for column in (0..across).filter(|&column| kept[column]) {
                columns.push(column as u16);
                data.push(&gather(shape, weights, strip, column))?;
            }
            starts.push(columns.len() as u32);
        }
        Self::from_parts(shape, starts, columns, data)
    }

    /// Takes the parts as the accessors give them.
    ///
    /// # Errors
    /// Starts that do not ascend from 0 to the number of blocks; columns of a strip that do not
    /// ascend or lie behind the matrix; data of another length; scales that are not finite;
    /// weights behind the edges of the matrix that are not zero.
    pub fn from_parts(
        shape: (usize, usize),
        starts: Vec<u32>,
        columns: Vec<u16>,
        data: BlockData,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        checks::indices(cols, columns.len())?;
        checks::structure(shape, &starts, &columns)?;
        checks::lengths(&data, columns.len())?;
        let matrix = Self { rows, cols, starts, columns, data };
        checks::edges(&matrix)?;
        Ok(matrix)
    }

    /// First block of each strip of 16 rows, and one more: `[rows / 16 + 1]`.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }
    /// Column of each block, counted in blocks.
    pub fn columns(&self) -> &[u16] {
        &self.columns
    }
    /// Which blocks are kept, `[strips][blocks of a strip]`.
    pub fn kept(&self) -> Vec<bool> {
        let across = self.cols.div_ceil(BLOCK_SIDE);
        let mut kept = vec![false; self.strips() * across];
        for (strip, kept) in kept.chunks_exact_mut(across.max(1)).enumerate() {
            self.columns[self.blocks_of(strip)].iter().for_each(|&column| kept[usize::from(column)] = true);
        }
        kept
    }
    /// Weights of the blocks.
    pub fn data(&self) -> &BlockData {
        &self.data
    }
    /// Strips of 16 rows, the last perhaps not full.
    pub fn strips(&self) -> usize {
        self.starts.len() - 1
    }
    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        let data = match &self.data {
            BlockData::Bf16(values) => values.len() * 2,
            BlockData::Integers { words, scales, .. } => words.len() * 4 + scales.len() * 2,
        };
        self.starts.len() * 4 + self.columns.len() * 2 + data
    }
    /// Share of the weights that are kept; padding does not count.
    pub fn density(&self) -> f64 {
        let side = |index: usize, end: usize| BLOCK_SIDE.min(end - index * BLOCK_SIDE);
        let strip = |strip: usize| {
            let columns = &self.columns[self.blocks_of(strip)];
            side(strip, self.rows) * columns.iter().map(|&c| side(c.into(), self.cols)).sum::<usize>()
        };
        let kept: usize = (0..self.strips()).map(strip).sum();
        kept as f64 / (self.rows * self.cols).max(1) as f64
    }

    /// The blocks of a strip.
    pub(crate) fn blocks_of(&self, strip: usize) -> std::ops::Range<usize> {
        self.starts[strip] as usize..self.starts[strip + 1] as usize
    }

    /// The weights of a block, `[16 columns][16 rows]`: the same bits with any vector.
    #[inline(always)]
    pub(crate) fn decode_block<L: Lanes>(&self, lanes: L, block: usize, out: &mut [f32]) {
        assert_eq!(out.len(), BLOCK_WEIGHTS);
        match &self.data {
            BlockData::Bf16(values) => {
                let pairs = &values[block * BLOCK_WEIGHTS..][..BLOCK_WEIGHTS];
                for at in (0..BLOCK_WEIGHTS / 2).step_by(L::WIDTH) {
                    let place = at / BLOCK_SIDE * 2 * BLOCK_SIDE + at % BLOCK_SIDE;
                    // SAFETY: `2 * WIDTH` values from `2 * at` on are left of the block; so many
                    // are stored at `place` and a column behind it.
                    unsafe {
                        let from = pairs.as_ptr().add(2 * at).cast();
                        let to = out.as_mut_ptr().add(place);
                        lanes.store_ptr(to, lanes.load_bf16_of_pairs::<false>(from));
                        lanes.store_ptr(to.add(BLOCK_SIDE), lanes.load_bf16_of_pairs::<true>(from));
                    }
                }
            }
            BlockData::Integers { bits, words, scales } => {
                let scales = &scales[block * BLOCK_SIDE..][..BLOCK_SIDE];
                match bits {
                    4 => scaled::<L, 4>(lanes, &words[block * 32..][..32], scales, out),
                    _ => scaled::<L, 8>(lanes, &words[block * 64..][..64], scales, out),
                }
            }
        }
    }
}

impl RowSource for BlockMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        out.fill(0.0);
        let mut weights = [0.0; BLOCK_WEIGHTS];
        for block in self.blocks_of(row / BLOCK_SIDE) {
            self.decode_block(Portable, block, &mut weights);
            let to = &mut out[usize::from(self.columns[block]) * BLOCK_SIDE..];
            let lanes = weights.iter().skip(row % BLOCK_SIDE).step_by(BLOCK_SIDE);
            to.iter_mut().zip(lanes).for_each(|(to, w)| *to = *w);
        }
    }
    fn as_blocks(&self) -> Option<&BlockMatrix> {
        Some(self)
    }
}

/// `w = scale[row] * code`.
#[inline(always)]
fn scaled<L: Lanes, const BITS: usize>(lanes: L, words: &[u32], scales: &[f16], out: &mut [f32]) {
    assert!(words.len() == BLOCK_WEIGHTS * BITS / 32 && scales.len() == BLOCK_SIDE);
    assert_eq!(out.len(), BLOCK_WEIGHTS);
    for half in (0..BLOCK_SIDE).step_by(L::WIDTH) {
        // SAFETY: `WIDTH` scales are left.
        let scale = unsafe { lanes.load_f16(scales.as_ptr().add(half)) };
        for column in 0..BLOCK_SIDE {
            let place = column % (32 / BITS);
            // SAFETY: a line of 16 words holds `32 / BITS` columns, `WIDTH` rows are left of it
            // from `half` on, and of a column of `out` as well.
            unsafe {
                let from = words.as_ptr().add(column / (32 / BITS) * BLOCK_SIDE + half);
                let codes = lanes.load_integers(from, BITS as u32, place as u32);
                lanes.store_ptr(out.as_mut_ptr().add(column * BLOCK_SIDE + half), lanes.mul(scale, codes));
            }
        }
    }
}

/// The weights of one block, `[16 columns][16 rows]`, zeros behind the matrix.
fn gather(
    (rows, cols): (usize, usize),
    weights: &[f32],
    strip: usize,
    column: usize,
) -> [f32; BLOCK_WEIGHTS] {
    let mut block = [0.0; BLOCK_WEIGHTS];
    let (first, left) = (strip * BLOCK_SIDE, column * BLOCK_SIDE);
    for row in first..rows.min(first + BLOCK_SIDE) {
        for col in left..cols.min(left + BLOCK_SIDE) {
            block[(col - left) * BLOCK_SIDE + row - first] = weights[row * cols + col];
        }
    }
    block
}

impl BlockData {
    fn empty(kind: BlockKind) -> Self {
        let integers = |bits| Self::Integers { bits, words: Vec::new(), scales: Vec::new() };
        match kind {
            BlockKind::Bf16 => Self::Bf16(Vec::new()),
            BlockKind::Int8 => integers(8),
            BlockKind::Int4 => integers(4),
        }
    }

    /// Adds a block `[16 columns][16 rows]`.
    fn push(&mut self, block: &[f32; BLOCK_WEIGHTS]) -> Result<(), PackError> {
        match self {
            Self::Bf16(values) => {
                for pair in block.chunks_exact(32) {
                    for row in 0..BLOCK_SIDE {
                        values.push(bf16::from_f32(pair[row]));
                        values.push(bf16::from_f32(pair[BLOCK_SIDE + row]));
                    }
                }
            }
            Self::Integers { bits, words, scales } => {
                let mut grid = [f16::ZERO; BLOCK_SIDE];
                for (row, grid) in grid.iter_mut().enumerate() {
                    let weights = block.iter().skip(row).step_by(BLOCK_SIDE);
                    *grid = symmetric_scale(weights, most(*bits))?;
                }
                let per_word = 32 / *bits as usize;
                for columns in block.chunks_exact(per_word * BLOCK_SIDE) {
                    words.extend((0..BLOCK_SIDE).map(|row| {
                        let weights = columns.iter().skip(row).step_by(BLOCK_SIDE);
                        word(weights, grid[row], *bits)
                    }));
                }
                scales.extend(grid);
            }
        }
        Ok(())
    }
}

/// Largest code of a symmetric grid.
fn most(bits: u32) -> f32 {
    ((1 << (bits - 1)) - 1) as f32
}

/// One word of codes.
fn word<'a>(weights: impl Iterator<Item = &'a f32>, scale: f16, bits: u32) -> u32 {
    weights.enumerate().fold(0, |word, (i, w)| {
        let code = symmetric_code(*w, scale, most(bits)) as u32 & ((1 << bits) - 1);
        word | code << (i as u32 * bits)
    })
}

#[cfg(test)]
mod tests;
