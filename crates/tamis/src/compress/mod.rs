//! Compression mathematics: from a weight matrix and what calibration knows about its
//! inputs to packed codes, a sparse stream, kept weights and a receipt. Pure: no files, no model, no
//! printing; the same input gives the same bits for any number of threads.
//!
//! ```text
//! Gram -> InverseFactor (factor.rs) -> Evidence, shared by q/k/v
//! W, Evidence, TensorPlan -> compress_tensor -> base, ortho, Receipt
//!   grid.rs fit.rs   which numbers a group may hold
//!   sweep.rs         the one column sweep; gptq.rs and ortho/joint.rs decide; naive.rs is its oracle
//!   quantise.rs      packed base and sparse stream; ortho/ chooses the stream
//!   prune/           which weights go altogether, and what the others become
//! ```
//!
//! GPTQ: Frantar 2022, arXiv 2210.17323. SpQR: Dettmers 2023, arXiv 2306.03078.

pub mod codes;
pub mod evidence;
pub mod factor;
pub mod fit;
pub mod gptq;
pub mod grid;
pub mod lanes;
pub mod metric;
pub mod naive;
pub mod order;
pub mod ortho;
pub mod plan;
pub mod prune;
mod quantise;
pub mod receipt;
pub mod rtn;
pub mod sweep;
pub mod threads;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::time::Instant;

use tamis_kernels::pack::{PackedMatrix, SparseRows};

pub use evidence::{Evidence, Factored};
pub use factor::{FactorRecord, Gram, InverseFactor};
pub use grid::{ClipSearch, GridSpec, Symmetry};
pub use lanes::Weights;
pub use order::{ActivationOrder, Order};
pub use plan::{Method, OnSingular, OrthoMode, TensorPlan};
pub use prune::{Criterion, Kept, Pattern, Pruning, Update};
pub use receipt::{Fallback, Receipt};
pub use threads::Threads;

use crate::error::{Error, Kind, Result};
use crate::model::Weight;
use crate::units::Alpha;

/// A compressed linear.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// In the form in which it is stored.
    pub weight: Weight,
    /// What was done and what it cost.
    pub receipt: Receipt,
}

impl Compressed {
    /// The quantised base, where there is one.
    pub fn base(&self) -> Option<&PackedMatrix> {
        match &self.weight {
            Weight::Packed(base) | Weight::Sieved { base, .. } => Some(base),
            _ => None,
        }
    }
    /// The sparse stream, where there is one.
    pub fn ortho(&self) -> Option<&SparseRows> {
        match &self.weight {
            Weight::Sieved { ortho, .. } => Some(ortho),
            _ => None,
        }
    }
    /// A weight that stays as it is: at 16 bits, or in the layout that holds its mask.
    pub fn untouched(weight: &Weight) -> Result<Self> {
        let weight = if weight.is_pruned() { weight.clone() } else { Weight::Half(weight.to_half()?) };
        let made = Made { weight, record: None, fallback: Fallback::None };
        Ok(Self { receipt: receipt(&made, (None, None), None), weight: made.weight })
    }
}

/// Compresses `w` as `plan` says. `evidence` must have been prepared with the plan's
/// damping and order; round-to-nearest without ortho, and magnitudes, do without it.
pub fn compress_tensor(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    plan: &TensorPlan,
    threads: Threads,
) -> Result<Compressed> {
    let started = Instant::now();
    check(w, evidence, plan)?;
    let (made, errors) = match plan.method {
        Method::Prune => {
            let made = prune::linear(w, evidence, plan, threads)?;
            let error = evidence.map(|e| relative_error(w, &made.weight, e, threads));
            (made, (error, error))
        }
        Method::Rtn | Method::Gptq => quantise::linear(w, evidence, plan, threads)?,
        Method::Keep => {
            return Err(Error::usage("a linear that is kept is not compressed")
                .next("leave it out, or choose another method"));
        }
    };
    let receipt = Receipt { seconds: started.elapsed().as_secs_f64(), ..receipt(&made, errors, evidence) };
    Ok(Compressed { weight: made.weight, receipt })
}

/// A linear in its new form, before it has a receipt.
struct Made {
    weight: Weight,
    record: Option<FactorRecord>,
    fallback: Fallback,
}

fn receipt(
    made: &Made,
    (base_error, error): (Option<f64>, Option<f64>),
    evidence: Option<&Evidence>,
) -> Receipt {
    let weight = &made.weight;
    let total = (weight.rows() * weight.cols()) as f64;
    let entries = if let Weight::Sieved { ortho, .. } = weight { ortho.entries() } else { 0 };
    let kept = weight.kept();
    Receipt {
        bits_per_weight: 8.0 * weight.bytes() as f64 / total,
        density: entries as f64 / total,
        sparsity: kept.as_ref().map_or(0.0, |kept| kept.iter().filter(|k| !**k).count() as f64 / total),
        dead_outputs: kept
            .map_or(0, |kept| kept.chunks(weight.cols()).filter(|row| row.iter().all(|kept| !kept)).count()),
        base_error,
        error,
        damping: made.record.map(|r| r.damping),
        tries: made.record.map_or(0, |r| r.tries),
        dead_columns: evidence.map_or(0, Evidence::dead_columns),
        tokens: evidence.map_or(0, Evidence::tokens),
        fallback: made.fallback.clone(),
        seconds: 0.0,
    }
}

/// `tr((W-B) H (W-B)^T) / tr(W H W^T)` for `B` as it is stored.
fn relative_error(w: &Weights<'_>, stored: &Weight, evidence: &Evidence, threads: Threads) -> f64 {
    let r = stored.with_rows(Alpha::ONE, |stored| metric::residual(w, stored));
    let energy = |data| {
        metric::energy(data, &metric::times_h(&Weights { data, ..*w }, evidence, threads), evidence.lambda())
    };
    let whole = energy(w.data);
    if whole > 0.0 { energy(&r) / whole } else { 0.0 }
}

fn check(w: &Weights<'_>, evidence: Option<&Evidence>, plan: &TensorPlan) -> Result<()> {
    plan.check()?;
    if w.cols == 0 || w.rows == 0 || Some(w.data.len()) != w.rows.checked_mul(w.cols) {
        return Err(Error::bad_data(format!("{} weights for a {}x{} matrix", w.data.len(), w.rows, w.cols)));
    }
    if let Some(at) = w.data.iter().position(|v| !v.is_finite()) {
        let (row, col) = (at / w.cols, at % w.cols);
        return Err(Error::new(Kind::NonFinite, format!("weight ({row}, {col}) is {}", w.data[at])));
    }
    let Some(evidence) = evidence else {
        return match plan.needs_evidence() {
            false => Ok(()),
            true => Err(Error::usage("this plan needs calibration evidence and there is none")
                .next("calibrate, or use method \"rtn\" without ortho, or score \"magnitude\"")),
        };
    };
    if evidence.size() != w.cols {
        let size = evidence.size();
        return Err(Error::bad_data(format!("evidence of {size} inputs for {} input features", w.cols)));
    }
    if (evidence.damping(), evidence.order()) != (plan.damping, plan.order) {
        return Err(Error::usage("evidence was prepared with another damping or order than the plan's")
            .next("prepare it with those of the plan"));
    }
    Ok(())
}
