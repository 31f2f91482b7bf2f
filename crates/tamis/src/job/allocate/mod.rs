//! How much each layer loses, before any is pruned: one pass over the dense model, one block at a
//! time. Knows no masks. The same inputs give the same shares, so a resumed run finds them again.
//!
//! ```text
//! units.rs      what gets a share, and what is left dense at the ends
//! share.rs      shares that have the mean that was asked for
//! trial.rs      linears pruned on trial, and how far a model on trial lies from the dense one
//! owl.rs slope.rs measured.rs    what decides
//! ```

mod measured;
mod owl;
mod share;
mod slope;
#[cfg(test)]
mod tests;
mod trial;
mod units;

use std::ops::ControlFlow;

use serde::Serialize;

use super::run::{Calibration, Job, Plans, Step, Watch};
use crate::calibrate::Windows;
use crate::error::{Error, Kind, Result};
use crate::recipe::Over;
pub(super) use trial::ROWS as LOGIT_ROWS;
use units::{Units, apply};

/// What one unit loses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// A block (`model.layers.3`) or a linear.
    pub unit: String,
    /// Its weights.
    pub weights: u64,
    /// The share of them that is left out.
    pub share: f64,
}

/// A pass over the dense model.
struct Prepass<'a, 'f, 'w> {
    job: &'a Job<'a>,
    plans: &'a Plans,
    units: &'a Units,
    watch: &'w mut Watch<'f>,
}

/// Gives every linear that allocation governs its share. The shares are empty where all are alike.
pub(super) fn allocate(job: &Job<'_>, plans: &mut Plans, watch: &mut Watch<'_>) -> Result<Vec<Share>> {
    let allocation = &job.recipe.allocation;
    if allocation.is_level() {
        return Ok(Vec::new());
    }
    let units = Units::of(job.checkpoint, job.recipe, plans)?;
    let mut pass = Prepass { job, plans, units: &units, watch };
    let shares = match allocation.over {
        Over::Uniform => units.uniform(),
        Over::Owl => owl::shares(&mut pass)?,
        Over::Slope => slope::shares(&mut pass)?,
        Over::Measured => measured::shares(&mut pass)?,
    };
    apply(&units, &shares, plans)?;
    Ok(units.named(&shares))
}

/// Errors: text that the passes need and that is not there.
pub(super) fn check_texts(job: &Job<'_>) -> Result<()> {
    match job.recipe.allocation.over {
        Over::Uniform => {}
        Over::Owl => {
            calibration(job)?;
        }
        Over::Slope | Over::Measured => {
            held_out(job)?;
        }
    }
    Ok(())
}

fn calibration<'j>(job: &'j Job<'_>) -> Result<&'j Calibration> {
    let missing = || {
        Error::usage("this allocation needs calibration text")
            .next("pass --calibration FILE with more text")
            .next("pass --calibration FILE")
    };
    job.calibration.as_ref().ok_or_else(missing)
}

fn held_out<'j>(job: &'j Job<'_>) -> Result<&'j Windows> {
    let missing = || {
        Error::usage("this allocation judges on windows held out of calibration")
            .next("pass --calibration FILE with more text")
    };
    calibration(job)?.held_out.as_ref().ok_or_else(missing)
}

/// The shares as far as they are known before any pass: what an estimate needs.
pub(super) fn assume(job: &Job<'_>, plans: &mut Plans) -> Result<()> {
    if job.recipe.allocation.is_level() {
        return Ok(());
    }
    let units = Units::of(job.checkpoint, job.recipe, plans)?;
    apply(&units, &units.uniform(), plans)
}

impl Prepass<'_, '_, '_> {
    /// Says where the pass stands. Errors: the watcher's wish to stop.
    fn step(&mut self, index: usize) -> Result<()> {
        let total = self.job.checkpoint.config().layers.len();
        let step = Step { done: 0, total, what: format!("block {index} weighed") };
        match self.job.workers.agree((self.watch)(&step)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(Kind::Stopped, "stopped before the first block")
                .file(self.job.output)
                .next("give the same command again")),
        }
    }

    /// Windows that calibrate trials.
    fn trial_windows(&self) -> Result<Windows> {
        Ok(calibration(self.job)?.windows.first(self.job.recipe.allocation.trial))
    }

    /// Windows to judge on.
    fn held_out(&self) -> Result<Windows> {
        Ok(judged(held_out(self.job)?))
    }
}

/// A trial costs a pass over these tokens, and many texts say more than a long one.
pub(super) fn judged(held_out: &Windows) -> Windows {
    held_out.beginnings(256)
}
