//! The layer's output error under a Gram matrix, from dense differences. It knows no
//! grids and no methods; it judges them all alike.
//!
//! `E ||D x||^2 = tr(D H D^T)`, the objective of Frantar 2022, arXiv 2210.17323.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use tamis_kernels::pack::RowSource;

use super::evidence::Evidence;
use super::lanes::Weights;
use super::threads::Threads;

/// Rows of one product; fixed, so that the number of threads cannot change a sum.
const ROWS: usize = 64;

/// `D H` for the damped `H` of `evidence`, `[rows, cols]`.
pub fn times_h(d: &Weights<'_>, evidence: &Evidence, threads: Threads) -> Vec<f32> {
    let k = d.cols;
    let h = MatRef::from_row_major_slice(evidence.h(), k, k);
    let mut out = vec![0.0f32; d.rows * k];
    let mut chunks: Vec<(&[f32], &mut [f32])> =
        d.data.chunks(ROWS * k).zip(out.chunks_mut(ROWS * k)).collect();
    threads.each(&mut chunks, |_, (d, out)| {
        let rows = d.len() / k;
        let d = MatRef::from_row_major_slice(d, rows, k);
        matmul(MatMut::from_row_major_slice_mut(out, rows, k), Accum::Replace, d, h, 1.0, Par::Seq);
    });
    out
}

/// `W - B` for `B` as it is stored, `[rows, cols]`.
pub fn residual(w: &Weights<'_>, stored: &dyn RowSource) -> Vec<f32> {
    let mut r = vec![0.0; w.data.len()];
    for (row, (r, w)) in r.chunks_mut(w.cols).zip(w.data.chunks(w.cols)).enumerate() {
        stored.decode_row(row, r);
        r.iter_mut().zip(w).for_each(|(r, w)| *r = w - *r);
    }
    r
}

/// `tr(D H D^T)` without damping, given `dh = D (H + lambda I)`.
pub fn energy(d: &[f32], dh: &[f32], lambda: f64) -> f64 {
    let (mut damped, mut square) = (0.0f64, 0.0f64);
    for (&d, &dh) in d.iter().zip(dh) {
        damped += f64::from(d) * f64::from(dh);
        square += f64::from(d) * f64::from(d);
    }
    (damped - lambda * square).max(0.0)
}
