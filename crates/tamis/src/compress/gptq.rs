//! GPTQ: a column becomes the nearest point of its group's grid. It knows nothing of
//! the error compensation, which is the sweep's.
//!
//! Frantar 2022, arXiv 2210.17323; static groups as in its reference code.

use super::codes::{CodedStrip, StripGrids};
use super::evidence::Factored;
use super::grid::GridSpec;
use super::lanes::{Lanes, Weights};
use super::order::{ActivationOrder, Order};
use super::sweep::{Column, Decide, SweepBlock, sweep};
use crate::units::GroupSize;

/// When grids are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitting {
    /// Up front, on the original weights of the original groups.
    Before,
    /// When the sweep enters a group, on weights that hold all earlier errors.
    OnEntry,
}

impl Fitting {
    /// Only a sweep in storage order meets whole groups; a row-wide group is entered
    /// before any error exists, so fitting it up front is the same and allows short blocks.
    pub fn of(order: ActivationOrder, group: GroupSize) -> Self {
        match (order, group) {
            (ActivationOrder::None, GroupSize::Of(_)) => Self::OnEntry,
            _ => Self::Before,
        }
    }

    /// Sweep block that suits groups of `group` columns.
    pub fn block(self, group: usize) -> SweepBlock {
        match self {
            Self::Before => SweepBlock::free(),
            Self::OnEntry => SweepBlock::of_groups(group),
        }
    }
}

/// What the rows of a matrix share. Grid fits weigh column `j` with `H_jj` and not with
/// `1 / U_jj^2`, though that is the price the sweep will pay: the layer's error is the same
/// within 2.5 %, but a real model loses more (SmolLM2, INT4: KL 0.130 against 0.124).
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The weights.
    pub w: Weights<'a>,
    /// The grids.
    pub spec: &'a GridSpec,
    /// Weights of the columns in grid fits, the diagonal of the Gram matrix.
    pub h: &'a [f32],
    /// The factor of the inverse Gram matrix.
    pub factored: &'a Factored,
    /// When grids are fitted.
    pub fitting: Fitting,
}

struct Nearest<'a> {
    grids: StripGrids<'a>,
    fitting: Fitting,
}

impl Decide for Nearest<'_> {
    fn enter(&mut self, _at: usize, ahead: &[Lanes]) {
        match self.fitting {
            Fitting::Before => {}
            Fitting::OnEntry => {
                self.grids.fit_next(ahead);
            }
        }
    }
    fn decide(&mut self, at: Column, w: &Lanes) -> Lanes {
        self.grids.round(at.original, w)
    }
}

/// Quantises strip `strip` of `task`; strips may run in any order and on any thread.
pub fn quantise_strip(task: &Task<'_>, strip: usize) -> CodedStrip {
    sweep_strip(task, strip).0
}

/// The same, with the `E` of the sweep, whose squares are the price of each decision.
pub fn sweep_strip(task: &Task<'_>, strip: usize) -> (CodedStrip, Vec<Lanes>) {
    let Task { w, spec, h, factored, fitting } = *task;
    let mut grids = StripGrids::new(spec, h);
    if fitting == Fitting::Before {
        grids.fit_all(&w.gather(strip, &Order::natural(w.cols)));
    }
    let block = fitting.block(grids.group());
    let mut nearest = Nearest { grids, fitting };
    let e = sweep(&mut w.gather(strip, factored.u.order()), &factored.u, block, &mut nearest);
    (nearest.grids.finish(w.rows_of(strip).len()), e)
}
