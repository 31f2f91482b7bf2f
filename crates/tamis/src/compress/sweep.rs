//! The column sweep of the optimal-brain-surgeon family, written once: GPTQ, SparseGPT
//! and SpQR differ only in what they decide that a column becomes (`Decide`). It knows
//! no grids, no masks and no files. `naive.rs` is its oracle.
//!
//! Frantar 2022, arXiv 2210.17323 (GPTQ), after Hassibi 1993 (optimal brain surgeon).

use super::factor::InverseFactor;
use super::lanes::{LANES, Lanes, each};

/// One column on its turn.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its place in the sweep.
    pub position: usize,
    /// Its place in the model.
    pub original: usize,
    /// `U_jj`; the price of an error `e` in this column is `(e / U_jj)^2`.
    pub pivot: f32,
}

/// What a method does with a column.
pub trait Decide {
    /// The sweep stands before column `at`, a multiple of the block's stride, and all
    /// earlier errors have reached `ahead`, the columns up to the next multiple.
    fn enter(&mut self, at: usize, ahead: &[Lanes]);
    /// What the column becomes, given its weights with all earlier errors in them.
    fn decide(&mut self, at: Column, w: &Lanes) -> Lanes;
}

/// Columns that are updated eagerly. A multiple of the stride by construction: a group
/// that straddled two blocks would be fitted before all errors had reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepBlock {
    stride: usize,
    length: usize,
}

/// Block length that is aimed at; 64 columns of a strip are 4 KiB, well inside L1.
const BLOCK: usize = 64;

impl SweepBlock {
    /// Blocks of whole groups of `stride` columns.
    pub fn of_groups(stride: usize) -> Self {
        Self::of_multiple(stride, (BLOCK / stride.max(1)).max(1))
    }
    /// Blocks of `count` groups of `stride` columns; the result does not depend on `count`.
    pub fn of_multiple(stride: usize, count: usize) -> Self {
        let stride = stride.max(1);
        Self { stride, length: stride * count.max(1) }
    }
    /// Blocks for a method that wants no groups.
    pub fn free() -> Self {
        Self::of_multiple(BLOCK, 1)
    }
}

/// Sweeps a strip whose columns stand in the order of `u`; returns `E`.
//
// OBS: when column j of the weights becomes q, the remaining columns F move by
//   w_F -= (w_j - q) / [H_F^-1]_jj * [H_F^-1]_j,F
// and row j, column j then leave H_F. Frantar: with H^-1 = U^T U the rows that the
// shrinking inverses would show are those of U, [H_F^-1]_j,F = U_jj U_j,F, so
//   e_j = (w_j - q_j) / U_jj          w_l -= e_j U_jl  for l > j
// and no inverse is updated. Summed up, W - Q = E U; hence
//   (W - Q) H (W - Q)^T = E U H U^T E^T = E E^T
// and the squares of E are the exact price of every decision.
//
// Lazy blocks: l inside j's block is updated at once, a later l when its block begins.
// Each l receives e_0, e_1, ... in this order either way, so the block length does not
// change a single bit.
pub fn sweep(w: &mut [Lanes], u: &InverseFactor, block: SweepBlock, decide: &mut impl Decide) -> Vec<Lanes> {
    let k = w.len();
    let mut e = vec![[0.0; LANES]; k];
    for start in (0..k).step_by(block.length) {
        let end = k.min(start + block.length);
        settle(&mut w[start..end], start, &e[..start], u);
        for j in start..end {
            if j % block.stride == 0 {
                decide.enter(j, &w[j..k.min(j + block.stride)]);
            }
            let at = Column { position: j, original: u.order().original(j), pivot: u.pivot(j) };
            let q = decide.decide(at, &w[j]);
            e[j] = each(|l| (w[j][l] - q[l]) / at.pivot);
            spread(&mut w[j + 1..end], j, &e[j], u);
        }
    }
    e
}

/// `w_l -= e_j U_jl` for the columns `l > j` that `ahead` holds.
//
// Never inlined, like `settle`: as arguments the slices are known not to overlap, and
// LLVM makes vectors of the lanes; once inlined it forgets, and the sweep is 3x slower.
#[inline(never)]
fn spread(ahead: &mut [Lanes], j: usize, e: &Lanes, u: &InverseFactor) {
    for (c, w) in ahead.iter_mut().enumerate() {
        take(w, e, u.column(j + 1 + c)[j]);
    }
}

/// Errors that one pass over a block applies; `w_l` is loaded and stored once for all.
const TOGETHER: usize = 4;

/// `w_l -= sum_i e_i U_il` over all `i` before the block. Passes run over the columns of
/// the block rather than over `i`, because LLVM turns lanes that are carried round a loop
/// in registers into scalars, but lanes that are loaded and stored into vectors.
#[inline(never)]
fn settle(block: &mut [Lanes], start: usize, e: &[Lanes], u: &InverseFactor) {
    let (together, rest) = e.as_chunks::<TOGETHER>();
    for (pass, e) in together.iter().enumerate() {
        for (c, w) in block.iter_mut().enumerate() {
            let u = &u.column(start + c)[pass * TOGETHER..][..TOGETHER];
            for l in 0..LANES {
                // In the order of i, so that the bits are those of TOGETHER = 1.
                w[l] = w[l] - e[0][l] * u[0] - e[1][l] * u[1] - e[2][l] * u[2] - e[3][l] * u[3];
            }
        }
    }
    for (i, e) in (start - rest.len()..).zip(rest) {
        for (c, w) in block.iter_mut().enumerate() {
            take(w, e, u.column(start + c)[i]);
        }
    }
}

#[inline(always)]
fn take(w: &mut Lanes, e: &Lanes, u: f32) {
    for (w, e) in w.iter_mut().zip(e) {
        *w -= e * u;
    }
}
