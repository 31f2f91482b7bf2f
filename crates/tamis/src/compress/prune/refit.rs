//! The best values for the blocks that were kept. Knows no scores.
//!
//! All rows of a strip share one support `S`, which is special to blocks: one factorisation gives the
//! exact least-squares answer for all of them. `min ||(W' - W) X||^2` with `W'` zero off `S` has
//! `W'_S H_SS = (W H)_S` (optimal brain surgeon for many weights at once, as in Kurtic 2023, arXiv 2302.04089).

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use super::mask::Mask;
use crate::compress::evidence::Evidence;
use crate::compress::lanes::Weights;
use crate::compress::metric::times_h;
use crate::compress::threads::Threads;
use crate::error::{Error, Kind, Result};

/// The best values on `mask`, whose rows are alike in strips of `strip` rows.
///
/// Errors: a support whose part of the damped Gram matrix is not positive definite.
///
/// # Panics
/// If the rows of a strip are not alike.
pub fn strips(
    w: &Weights<'_>,
    mask: &Mask,
    evidence: &Evidence,
    strip: usize,
    threads: Threads,
) -> Result<Vec<f32>> {
    let target = times_h(w, evidence, threads);
    let solved = threads.map(w.rows.div_ceil(strip), |index| {
        let rows = index * strip..((index + 1) * strip).min(w.rows);
        let support: Vec<usize> = (0..w.cols).filter(|&col| mask.row(rows.start)[col]).collect();
        assert!(rows.clone().all(|row| mask.row(row) == mask.row(rows.start)), "the rows of a strip differ");
        let (h, k) = (evidence.h(), w.cols);
        let part =
            Mat::from_fn(support.len(), support.len(), |i, j| f64::from(h[support[i] * k + support[j]]));
        let mut values = Mat::from_fn(support.len(), rows.len(), |i, row| {
            f64::from(target[(rows.start + row) * k + support[i]])
        });
        let factor = part.llt(Side::Lower).map_err(|_| {
            Error::new(Kind::Quality, "the Gram matrix of the kept columns cannot be factored")
                .next("use more calibration text or more damping")
        })?;
        factor.solve_in_place(values.as_mut());
        let mut out = vec![0.0; rows.len() * k];
        for (row, out) in out.chunks_exact_mut(k).enumerate() {
            support.iter().enumerate().for_each(|(i, &col)| out[col] = values[(i, row)] as f32);
        }
        Ok(out)
    });
    Ok(solved.into_iter().collect::<Result<Vec<_>>>()?.concat())
}
