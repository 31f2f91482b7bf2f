//! What must hold of the parts of a `BlockMatrix` before a kernel may index by them. Knows
//! nothing of how they are multiplied.

use super::{BLOCK_SIDE, BLOCK_WEIGHTS, BlockData, BlockMatrix, PackError};
use crate::lanes::Portable;

/// Columns fit 16 bits, and numbers of blocks 32.
pub(super) fn indices(cols: usize, blocks: usize) -> Result<(), PackError> {
    if cols.div_ceil(BLOCK_SIDE) > 1 << 16 {
        return Err(PackError(format!("{cols} columns: blocks of 16 reach {} at most", BLOCK_SIDE << 16)));
    }
    if u32::try_from(blocks).is_err() {
        return Err(PackError(format!("{blocks} blocks: at most 2^32 - 1 can be counted")));
    }
    Ok(())
}

/// Starts ascend from 0 to the number of blocks; columns ascend in a strip and lie in the matrix.
pub(super) fn structure(
    (rows, cols): (usize, usize),
    starts: &[u32],
    columns: &[u16],
) -> Result<(), PackError> {
    if cols == 0 {
        return Err(PackError("blocks of a matrix without columns".into()));
    }
    let strips = rows.div_ceil(BLOCK_SIDE);
    if starts.len() != strips + 1 || starts[0] != 0 {
        return Err(PackError(format!("{} starts for {strips} strips of 16 rows", starts.len())));
    }
    if !starts.is_sorted() || starts[strips] as usize != columns.len() {
        return Err(PackError("starts of strips must ascend to the number of blocks".into()));
    }
    let across = cols.div_ceil(BLOCK_SIDE);
    for strip in starts.windows(2) {
        let strip = &columns[strip[0] as usize..strip[1] as usize];
        let ascending = strip.windows(2).all(|c| c[0] < c[1]);
        if !ascending || strip.last().is_some_and(|&c| usize::from(c) >= across) {
            return Err(PackError("columns of a strip must ascend and lie in the matrix".into()));
        }
    }
    Ok(())
}

/// The data is that of so many blocks.
pub(super) fn lengths(data: &BlockData, blocks: usize) -> Result<(), PackError> {
    let wanted = |each: usize| blocks.checked_mul(each);
    let right = match data {
        BlockData::Bf16(values) => wanted(BLOCK_WEIGHTS) == Some(values.len()),
        BlockData::Integers { bits, words, scales } => {
            if !matches!(bits, 4 | 8) {
                return Err(PackError(format!("{bits} bits: blocks hold integers of 4 or 8")));
            }
            if scales.iter().any(|s| !s.is_finite()) {
                return Err(PackError("a scale of a block is not finite".into()));
            }
            wanted(*bits as usize / 2 * BLOCK_SIDE) == Some(words.len())
                && wanted(BLOCK_SIDE) == Some(scales.len())
        }
    };
    if right {
        Ok(())
    } else {
        Err(PackError(format!("weights and scales are not those of {blocks} blocks")))
    }
}

/// Weights behind the last row and column are zero: they meet zeros of x, and only zero times
/// zero is surely nothing.
pub(super) fn edges(matrix: &BlockMatrix) -> Result<(), PackError> {
    let outside = |index: usize, end: usize| (end - index * BLOCK_SIDE).min(BLOCK_SIDE);
    let mut weights = [0.0; BLOCK_WEIGHTS];
    for strip in 0..matrix.strips() {
        for block in matrix.blocks_of(strip) {
            let rows = outside(strip, matrix.rows);
            let cols = outside(matrix.columns[block].into(), matrix.cols);
            if rows == BLOCK_SIDE && cols == BLOCK_SIDE {
                continue;
            }
            matrix.decode_block(Portable, block, &mut weights);
            let padding = |i: usize| i / BLOCK_SIDE >= cols || i % BLOCK_SIDE >= rows;
            if weights.iter().enumerate().any(|(i, w)| padding(i) && *w != 0.0) {
                return Err(PackError(format!("block {block} holds weights behind the matrix")));
            }
        }
    }
    Ok(())
}
