//! Tests that span several files of `compress`: the sweep against its oracle, relations
//! between methods on synthetic layers, and agreement with an outside implementation.
//! See arXiv 2210.17323 and 2306.03078 for what is being checked.

mod golden;
mod oracle;
mod relations;
mod timing;

use std::num::NonZeroUsize;

use super::*;
use crate::units::{Bits, Damping, Density, GroupSize};

/// Tolerances of this folder, with their reasons.
mod tolerance {
    /// f32 sweep against f64 elimination: about k roundings of 2^-24 on values near one.
    pub(super) const F32_SWEEP: f64 = 2e-5;
    /// Share of codes that may differ from an f64 sweep: a weight within `F32_SWEEP` of a
    /// rounding boundary may fall to either side, and takes its successors along.
    pub(super) const CODES_DIFFERENT: f64 = 0.01;
    /// Error of two sweeps that differ in such codes only.
    pub(super) const ERROR_OF_TIES: f64 = 0.01;
}

/// A layer with its Gram matrix, and the plan to start from: INT4 in groups of 32.
struct Layer {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    gram: Gram,
}

impl Layer {
    fn new(rows: usize, cols: usize, seed: u64) -> Self {
        let gram = synthetic::correlated_gram(cols, 4 * cols, seed);
        Self { data: synthetic::weights(rows, cols, seed + 100), rows, cols, gram }
    }
    fn weights(&self) -> Weights<'_> {
        Weights { data: &self.data, rows: self.rows, cols: self.cols }
    }
    fn compress(&self, plan: &TensorPlan) -> Compressed {
        self.compress_with(plan, Threads::ONE)
    }
    fn compress_with(&self, plan: &TensorPlan, threads: Threads) -> Compressed {
        let evidence = Evidence::prepare(&self.gram, plan.damping, plan.order);
        compress_tensor(&self.weights(), Some(&evidence), plan, threads).unwrap()
    }
}

fn plan(bits: u32, group: GroupSize) -> TensorPlan {
    TensorPlan { bits: Bits::new(bits).unwrap(), group, ..TensorPlan::default() }
}

fn density(share: f64) -> Density {
    Density::new(share).unwrap()
}

fn threads(count: usize) -> Threads {
    Threads::new(NonZeroUsize::new(count).unwrap())
}

fn damping(share: f64) -> Damping {
    Damping::new(share).unwrap()
}
