//! SparseGPT: inside the column sweep, the weights of a slab whose loss would be least become zero,
//! and all later columns make up for them. Knows nothing of the compensation, which is the sweep's.
//!
//! Frantar 2023, arXiv 2301.00774. When the sweep enters a slab of columns, all earlier errors have
//! reached it, and `(w_ij / U_jj)^2` is what dropping a weight costs. The paper compares all rows of a
//! slab with each other; here the 16 rows of a strip are, so that strips stay independent.

use super::mask::Mask;
use super::pattern::{Pattern, drop_lowest};
use crate::compress::factor::InverseFactor;
use crate::compress::lanes::{LANES, Lanes, Weights, each};
use crate::compress::sweep::{Column, Decide, SweepBlock, sweep};
use crate::compress::threads::Threads;
use crate::error::{Error, Result};
use crate::units::Sparsity;

/// Columns of a slab, as in the paper.
const SLAB: usize = 128;

/// The weights that are left, compensated, and which they are.
///
/// Errors: a pattern that the sweep cannot keep, or one of neighbours where the sweep does not visit the
/// columns in their own order.
pub fn prune(
    w: &Weights<'_>,
    u: &InverseFactor,
    (pattern, sparsity): (Pattern, Sparsity),
    threads: Threads,
) -> Result<(Vec<f32>, Mask)> {
    let rule = Rule::of(pattern, sparsity, u)?;
    let strips = threads.map(w.strips(), |strip| {
        let mut columns = w.gather(strip, u.order());
        let mut choice = Choice::new(u, rule, w.rows_of(strip).len());
        sweep(&mut columns, u, SweepBlock::of_groups(rule.slab), &mut choice);
        choice
    });
    let (mut values, mut kept) = (vec![0.0; w.data.len()], vec![false; w.data.len()]);
    for (strip, choice) in strips.iter().enumerate() {
        for position in 0..w.cols {
            for (lane, row) in w.rows_of(strip).enumerate() {
                let at = row * w.cols + u.order().original(position);
                values[at] = choice.values[position][lane];
                kept[at] = choice.kept[position * LANES + lane];
            }
        }
    }
    Ok((values, Mask::new(w.cols, kept)))
}

/// How the weights of a slab are chosen.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Columns of a slab.
    slab: usize,
    /// Weights that stay of each row in a slab; nothing where the rows of a strip are compared.
    keep: Option<usize>,
    sparsity: Sparsity,
}

impl Rule {
    fn of(pattern: Pattern, sparsity: Sparsity, u: &InverseFactor) -> Result<Self> {
        match pattern {
            Pattern::Rows | Pattern::Matrix => Ok(Self { slab: SLAB, keep: None, sparsity }),
            Pattern::OfEach { keep, of } => {
                Pattern::neighbours(keep, of, u.size())?;
                if (0..u.size()).any(|position| u.order().original(position) != position) {
                    let problem = format!("SparseGPT cannot keep {keep} of {of} neighbours in another order");
                    return Err(Error::usage(problem).next("use activation order \"none\""));
                }
                Ok(Self { slab: of, keep: Some(keep), sparsity })
            }
            Pattern::Blocks { rows, cols } => {
                Err(Error::usage(format!("SparseGPT knows no blocks of {rows}x{cols}"))
                    .next("use a block score"))
            }
        }
    }
}

struct Choice<'a> {
    u: &'a InverseFactor,
    rule: Rule,
    /// Rows of the strip.
    rows: usize,
    /// `[position][lane]`.
    kept: Vec<bool>,
    /// By position.
    values: Vec<Lanes>,
}

impl<'a> Choice<'a> {
    fn new(u: &'a InverseFactor, rule: Rule, rows: usize) -> Self {
        Self { u, rule, rows, kept: vec![true; u.size() * LANES], values: vec![[0.0; LANES]; u.size()] }
    }
}

impl Decide for Choice<'_> {
    fn enter(&mut self, at: usize, ahead: &[Lanes]) {
        // What dropping it costs, `[lane][column]`.
        let mut price = Vec::with_capacity(self.rows * ahead.len());
        for lane in 0..self.rows {
            price.extend(ahead.iter().enumerate().map(|(i, w)| (w[lane] / self.u.pivot(at + i)).powi(2)));
        }
        let mut kept = vec![true; price.len()];
        match self.rule.keep {
            None => drop_lowest(&price, self.rule.sparsity.zeros(price.len()), &mut kept),
            Some(keep) => {
                let rows = price.chunks_exact(ahead.len()).zip(kept.chunks_exact_mut(ahead.len()));
                rows.for_each(|(price, kept)| drop_lowest(price, ahead.len() - keep, kept));
            }
        }
        for (index, kept) in kept.into_iter().enumerate() {
            self.kept[(at + index % ahead.len()) * LANES + index / ahead.len()] = kept;
        }
    }

    fn decide(&mut self, at: Column, w: &Lanes) -> Lanes {
        let kept = &self.kept[at.position * LANES..][..LANES];
        let value = each(|lane| if kept[lane] { w[lane] } else { 0.0 });
        self.values[at.position] = value;
        value
    }
}
