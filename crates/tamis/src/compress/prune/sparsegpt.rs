//! SparseGPT: inside the column sweep, the weights of a slab whose loss would be least become zero,
//! and all later columns make up for them. Knows nothing of the compensation, which is the sweep's.
//!
//! Frantar 2023, arXiv 2301.00774. When the sweep enters a slab of columns, all earlier errors have
//! reached it, and `(w_ij / U_jj)^2` is what dropping a weight costs. The paper compares all rows of a
//! slab with each other; here the 16 rows of a strip are, so that strips stay independent.

use super::mask::Mask;
use super::pattern::{Pattern, drop_lowest};
use super::tiers::{SIDE, Tier, Tiered};
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
    Ok(swept(w, u, rule.slab, &|_| rule.choice, threads))
}

/// The same where the tiers of the blocks are known: the sweep chooses inside each block.
///
/// Errors: a sweep that does not visit the columns in their own order.
pub fn within_tiers(
    w: &Weights<'_>,
    u: &InverseFactor,
    tiered: &Tiered,
    threads: Threads,
) -> Result<(Vec<f32>, Mask)> {
    own_order(u, "tiers")?;
    Ok(swept(w, u, SIDE, &|strip| By::Tiers(tiered.strip(strip)), threads))
}

fn swept<'a>(
    w: &Weights<'_>,
    u: &InverseFactor,
    slab: usize,
    by: &(dyn Fn(usize) -> By<'a> + Sync),
    threads: Threads,
) -> (Vec<f32>, Mask) {
    let strips = threads.map(w.strips(), |strip| {
        let mut columns = w.gather(strip, u.order());
        let mut choice = Choice::new(u, by(strip), w.rows_of(strip).len());
        sweep(&mut columns, u, SweepBlock::of_groups(slab), &mut choice);
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
    (values, Mask::new(w.cols, kept))
}

/// Errors: another order than that of the columns.
fn own_order(u: &InverseFactor, what: &str) -> Result<()> {
    if (0..u.size()).all(|position| u.order().original(position) == position) {
        return Ok(());
    }
    Err(Error::usage(format!("SparseGPT cannot keep {what} in another order"))
        .next("use activation order \"none\""))
}

/// What decides which weights of a slab of a strip stay.
#[derive(Debug, Clone, Copy)]
enum By<'a> {
    /// A share goes; all are compared.
    Share(Sparsity),
    /// So many of each row stay.
    Each(usize),
    /// The tier of each block of the strip; a slab is a block.
    Tiers(&'a [Tier]),
}

/// How the weights of a slab are chosen.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Columns of a slab.
    slab: usize,
    choice: By<'static>,
}

impl Rule {
    fn of(pattern: Pattern, sparsity: Sparsity, u: &InverseFactor) -> Result<Self> {
        match pattern {
            Pattern::Rows => Ok(Self { slab: SLAB, choice: By::Share(sparsity) }),
            Pattern::OfEach { keep, of } => {
                Pattern::neighbours(keep, of, u.size())?;
                own_order(u, &format!("{keep} of {of} neighbours"))?;
                Ok(Self { slab: of, choice: By::Each(keep) })
            }
            Pattern::Matrix | Pattern::Blocks { .. } | Pattern::Tiers(_) => {
                Err(Error::usage(format!("SparseGPT alone knows no pattern \"{pattern}\""))
                    .next("use pattern \"rows\", or a block score"))
            }
        }
    }
}

struct Choice<'a> {
    u: &'a InverseFactor,
    by: By<'a>,
    /// Rows of the strip.
    rows: usize,
    /// `[position][lane]`.
    kept: Vec<bool>,
    /// By position.
    values: Vec<Lanes>,
}

impl<'a> Choice<'a> {
    fn new(u: &'a InverseFactor, by: By<'a>, rows: usize) -> Self {
        Self { u, by, rows, kept: vec![true; u.size() * LANES], values: vec![[0.0; LANES]; u.size()] }
    }
}

impl Decide for Choice<'_> {
    fn enter(&mut self, at: usize, ahead: &[Lanes]) {
        // What dropping it costs, `[lane][column]`.
        let mut price = Vec::with_capacity(self.rows * ahead.len());
        for lane in 0..self.rows {
            price.extend(ahead.iter().enumerate().map(|(i, w)| (w[lane] / self.u.pivot(at + i)).powi(2)));
        }
        let width = ahead.len();
        let mut kept = vec![true; price.len()];
        match self.by {
            By::Share(share) => drop_lowest(&price, share.zeros(price.len()), &mut kept),
            By::Each(keep) => {
                let rows = price.chunks_exact(width).zip(kept.chunks_exact_mut(width));
                rows.for_each(|(price, kept)| drop_lowest(price, width - keep, kept));
            }
            By::Tiers(tiers) => kept = tiers[at / SIDE].keep(&price, width),
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
