//! The reference of the linear map: plain loops, sums in f64.

use super::Precision;
use crate::pack::RowSource;

/// `y[i, j] = sum_k x[i, k] * W[j, k]`, operands rounded as `precision` says; those of
/// sparse rows are not.
pub fn linear(x: &[f32], weights: &dyn RowSource, precision: Precision, y: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    let rounded = precision == Precision::Bf16 && weights.as_sparse().is_none();
    let round = |v: f32| if rounded { half::bf16::from_f32(v).to_f64() } else { f64::from(v) };
    let mut row = vec![0.0; k];
    for j in 0..n {
        weights.decode_row(j, &mut row);
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
            y[j] = x.iter().zip(&row).map(|(&x, &w)| round(x) * round(w)).sum::<f64>() as f32;
        }
    }
}
