//! The reference of the linear map and of its gradients: plain loops, sums in f64.

use super::Precision;
use crate::pack::RowSource;

/// An operand, rounded as `precision` says.
fn round(v: f32, precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f64::from(v),
        Precision::Bf16 => half::bf16::from_f32(v).to_f64(),
    }
}

/// `y[i, j] = sum_k x[i, k] * W[j, k]`, operands rounded as `precision` says; those of
/// sparse rows are not.
pub fn linear(x: &[f32], weights: &dyn RowSource, precision: Precision, y: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    let precision = if weights.as_sparse().is_some() { Precision::F32 } else { precision };
    let mut row = vec![0.0; k];
    for j in 0..n {
        weights.decode_row(j, &mut row);
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
            y[j] = x.iter().zip(&row).map(|(&x, &w)| round(x, precision) * round(w, precision)).sum::<f64>()
                as f32;
        }
    }
}

/// `dx[i, k] = sum_j dy[i, j] * W[j, k]`, operands rounded as `precision` says.
pub fn input_gradient(dy: &[f32], weights: &dyn RowSource, precision: Precision, dx: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    let mut sums = vec![0.0; dx.len()];
    let mut row = vec![0.0; k];
    for j in 0..n {
        weights.decode_row(j, &mut row);
        for (dy, sums) in dy.chunks_exact(n).zip(sums.chunks_exact_mut(k)) {
            for (sum, &w) in sums.iter_mut().zip(&row) {
                *sum += round(dy[j], precision) * round(w, precision);
            }
        }
    }
    dx.iter_mut().zip(sums).for_each(|(dx, sum): (_, f64)| *dx = sum as f32);
}

/// `dw[j, k] += sum_i dy[i, j] * x[i, k]`, operands rounded as `precision` says.
pub fn weight_gradient(
    (dy, n): (&[f32], usize),
    (x, k): (&[f32], usize),
    precision: Precision,
    dw: &mut [f32],
) {
    let mut sums: Vec<f64> = dw.iter().map(|&v| f64::from(v)).collect();
    for (dy, x) in dy.chunks_exact(n).zip(x.chunks_exact(k)) {
        for (&dy, sums) in dy.iter().zip(sums.chunks_exact_mut(k)) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += round(dy, precision) * round(x, precision);
            }
        }
    }
    dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw = sum as f32);
}
