//! A packed base and, where a plan asks for one, a sparse stream on top. Knows no pruning.
//!
//! GPTQ: Frantar 2022, arXiv 2210.17323. SpQR: Dettmers 2023, arXiv 2306.03078.

use tamis_kernels::pack::{PackedMatrix, SparseRows};

use super::evidence::Evidence;
use super::factor::FactorRecord;
use super::lanes::Weights;
use super::ortho::{self, SparseRow};
use super::plan::{Method, OnSingular, OrthoMode, TensorPlan};
use super::receipt::Fallback;
use super::threads::Threads;
use super::{Made, codes, gptq, metric, rtn};
use crate::error::Result;
use crate::model::Weight;

/// Relative errors of the base and of the whole, where evidence tells them.
type Errors = (Option<f64>, Option<f64>);

/// The quantised linear and its errors.
pub(super) fn linear(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    plan: &TensorPlan,
    threads: Threads,
) -> Result<(Made, Errors)> {
    let base = make_base(w, evidence, plan, threads)?;
    let packed = codes::assemble((w.rows, w.cols), &plan.grid(), &base.strips)?;
    let (ortho, base_error, error) = match evidence {
        Some(evidence) => finish(w, &packed, base.stream, &Judge { evidence, plan, threads })?,
        None => (None, None, None),
    };
    let weight = match ortho {
        Some(ortho) => Weight::Sieved { base: packed, ortho },
        None => Weight::Packed(packed),
    };
    Ok((Made { weight, record: base.record, fallback: base.fallback }, (base_error, error)))
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
    let mut r = metric::residual(w, base);
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
