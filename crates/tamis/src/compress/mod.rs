//! Compression mathematics: from a weight matrix and what calibration knows about its
//! inputs to packed codes, a sparse stream and a receipt. Pure: no files, no model, no
//! printing; the same input gives the same bits for any number of threads.
//!
//! ```text
//! Gram -> InverseFactor (factor.rs) -> Evidence, shared by q/k/v
//! W, Evidence, TensorPlan -> compress_tensor -> base, ortho, Receipt
//!   grid.rs fit.rs   which numbers a group may hold
//!   sweep.rs         the one column sweep; gptq.rs and ortho/joint.rs decide; naive.rs is its oracle
//!   ortho/           the sparse stream
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
pub mod receipt;
pub mod rtn;
pub mod sweep;
pub mod threads;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::time::Instant;

use tamis_kernels::pack::{PackedMatrix, RowSource, SparseRows};

pub use evidence::{Evidence, Factored};
pub use factor::{FactorRecord, Gram, InverseFactor};
pub use grid::{ClipSearch, GridSpec, Symmetry};
pub use lanes::Weights;
pub use order::{ActivationOrder, Order};
pub use plan::{Method, OnSingular, OrthoMode, TensorPlan};
pub use receipt::{Fallback, Receipt};
pub use threads::Threads;

use crate::error::{Error, Kind, Result};
use ortho::SparseRow;

/// A compressed linear.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressed {
    /// The quantised base.
    pub base: PackedMatrix,
    /// The sparse stream, where the plan asks for one.
    pub ortho: Option<SparseRows>,
    /// What was done and what it cost.
    pub receipt: Receipt,
}

/// Compresses `w` as `plan` says. `evidence` must have been prepared with the plan's
/// damping and order; only round-to-nearest without ortho does without it.
pub fn compress_tensor(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    plan: &TensorPlan,
    threads: Threads,
) -> Result<Compressed> {
    let started = Instant::now();
    check(w, evidence, plan)?;
    let base = make_base(w, evidence, plan, threads)?;
    let packed = codes::assemble((w.rows, w.cols), &plan.grid(), &base.strips)?;
    let (ortho, base_error, error) = match evidence {
        Some(evidence) => finish(w, &packed, base.stream, &Judge { evidence, plan, threads })?,
        None => (None, None, None),
    };
    let total = (w.rows * w.cols) as f64;
    let bytes = packed.bytes() + ortho.as_ref().map_or(0, SparseRows::bytes);
    let receipt = Receipt {
        bits_per_weight: 8.0 * bytes as f64 / total,
        density: ortho.as_ref().map_or(0, SparseRows::entries) as f64 / total,
        base_error,
        error,
        damping: base.record.map(|r| r.damping),
        tries: base.record.map_or(0, |r| r.tries),
        dead_columns: evidence.map_or(0, Evidence::dead_columns),
        tokens: evidence.map_or(0, Evidence::tokens),
        fallback: base.fallback,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(Compressed { base: packed, ortho, receipt })
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
        return match (plan.method, plan.ortho) {
            (Method::Rtn, OrthoMode::None) => Ok(()),
            _ => Err(Error::usage("this plan needs calibration evidence and there is none")
                .next("calibrate, or use method \"rtn\" without ortho")),
        };
    };
    if evidence.size() != w.cols {
        let size = evidence.size();
        return Err(Error::bad_data(format!("evidence of {size} inputs for {} input features", w.cols)));
    }
    if (evidence.damping(), evidence.order()) != (plan.damping, plan.order) {
        return Err(Error::usage("evidence was prepared with another damping or order than the plan's"));
    }
    Ok(())
}

struct Base {
    strips: Vec<codes::CodedStrip>,
    stream: Option<Vec<SparseRow>>,
    record: Option<FactorRecord>,
    fallback: Fallback,
}

fn make_base(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    plan: &TensorPlan,
    threads: Threads,
) -> Result<Base> {
    let spec = &plan.grid();
    let rtn = |fallback| {
        let h = evidence.map_or_else(|| vec![1.0; w.cols], Evidence::diagonal);
        let strips = threads.map(w.strips(), |strip| rtn::quantise_strip(w, &h, spec, strip));
        Base { strips, stream: None, record: None, fallback }
    };
    let (Method::Gptq, Some(evidence)) = (plan.method, evidence) else {
        return Ok(rtn(Fallback::None));
    };
    let factored = match (evidence.factored(), plan.on_singular) {
        (Ok(factored), _) => factored,
        (Err(error), OnSingular::Rtn) => return Ok(rtn(Fallback::Rtn(error.problem().into()))),
        (Err(error), OnSingular::Fail) => return Err(error),
    };
    let h = &evidence.diagonal();
    let fitting = gptq::Fitting::of(plan.order, plan.group);
    let task = gptq::Task { w: *w, spec, h, factored, fitting };
    let (strips, stream) = match plan.ortho {
        OrthoMode::Joint => {
            let (strips, stream) = ortho::joint::quantise(&task, budget(w, plan), threads);
            (strips, Some(stream))
        }
        _ => (threads.map(w.strips(), |strip| gptq::quantise_strip(&task, strip)), None),
    };
    Ok(Base { strips, stream, record: Some(factored.record), fallback: Fallback::None })
}

fn budget(w: &Weights<'_>, plan: &TensorPlan) -> usize {
    plan.density.entries(w.rows * w.cols)
}

struct Judge<'a> {
    evidence: &'a Evidence,
    plan: &'a TensorPlan,
    threads: Threads,
}

type Judged = (Option<SparseRows>, Option<f64>, Option<f64>);

/// Makes the stream where the base came without one, and measures both errors on what is
/// stored: packed codes and f16 values.
fn finish(
    w: &Weights<'_>,
    base: &PackedMatrix,
    stream: Option<Vec<SparseRow>>,
    judge: &Judge<'_>,
) -> Result<Judged> {
    let Judge { evidence, plan, threads } = *judge;
    let energy = |d: &[f32], dh: &[f32]| metric::energy(d, dh, evidence.lambda());
    let whole = energy(w.data, &metric::times_h(w, evidence, threads));
    let share = |e: f64| if whole > 0.0 { e / whole } else { 0.0 };
    let mut r = residual(w, base);
    let hr = metric::times_h(&Weights { data: &r, ..*w }, evidence, threads);
    let base_error = share(energy(&r, &hr));
    let rows = match (plan.ortho, stream) {
        (OrthoMode::None, _) => return Ok((None, Some(base_error), Some(base_error))),
        // The sweep fixed an outlier's value before later columns had moved; the support
        // stays, the values become the best ones for the base as it came out.
        (_, Some(stream)) => {
            let hr = Weights { data: &hr, ..*w };
            ortho::least_squares::refit(&stream, &hr, evidence.h(), threads)
        }
        (OrthoMode::TopResidual, None) => {
            let r = Weights { data: &r, ..*w };
            ortho::top_residual::stream(&r, &evidence.diagonal(), budget(w, plan), threads)
        }
        // A joint plan that fell back to plain rounding has no stream yet either.
        (OrthoMode::Quality | OrthoMode::Joint, None) => {
            let hr = Weights { data: &hr, ..*w };
            ortho::quality::stream(&hr, evidence, budget(w, plan), threads)
        }
    };
    let ortho = ortho::pack((w.rows, w.cols), &rows)?;
    for (row, r) in r.chunks_mut(w.cols).enumerate() {
        ortho.add_row(row, -1.0, r);
    }
    let hr = metric::times_h(&Weights { data: &r, ..*w }, evidence, threads);
    let error = share(energy(&r, &hr));
    Ok((Some(ortho), Some(base_error), Some(error)))
}

/// `W - B`.
fn residual(w: &Weights<'_>, base: &PackedMatrix) -> Vec<f32> {
    let mut r = vec![0.0; w.data.len()];
    for (row, (r, w)) in r.chunks_mut(w.cols).zip(w.data.chunks(w.cols)).enumerate() {
        base.decode_row(row, r);
        r.iter_mut().zip(w).for_each(|(r, w)| *r = w - *r);
    }
    r
}
