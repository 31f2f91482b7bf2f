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
            for l in j + 1..end {
                take(&mut w[l], &e[j], u.column(l)[j]);
            }
        }
    }
    e
}

/// `w_l -= sum_i e_i U_il` over all `i` before the block, two columns at a time so that
/// each `e_i` is loaded once for both.
fn settle(block: &mut [Lanes], start: usize, e: &[Lanes], u: &InverseFactor) {
    let mut pairs = block.chunks_exact_mut(2);
    let mut l = start;
    for pair in pairs.by_ref() {
        let (mut a, mut b) = (pair[0], pair[1]);
        for ((e, &ua), &ub) in e.iter().zip(u.column(l)).zip(u.column(l + 1)) {
            take(&mut a, e, ua);
            take(&mut b, e, ub);
        }
        (pair[0], pair[1]) = (a, b);
        l += 2;
    }
    for w in pairs.into_remainder() {
        for (e, &ul) in e.iter().zip(u.column(l)) {
            take(w, e, ul);
        }
    }
}

#[inline(always)]
fn take(w: &mut Lanes, e: &Lanes, u: f32) {
    for l in 0..LANES {
        w[l] -= e[l] * u;
    }
}
