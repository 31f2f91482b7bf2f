//! The reference of the sparse product: plain loops, sums in f64.

use crate::pack::SparseRows;

/// `y[i, j] += alpha * sum_k x[i, k] * S[j, k]`.
pub(crate) fn add(x: &[f32], sparse: &SparseRows, alpha: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(sparse.cols()).zip(y.chunks_exact_mut(sparse.rows())) {
        for (row, y) in y.iter_mut().enumerate() {
            let (columns, values) = sparse.row(row);
            let product = |(c, v): (&u16, &half::f16)| f64::from(x[usize::from(*c)]) * v.to_f64();
            let sum: f64 = columns.iter().zip(values).map(product).sum();
            *y = (f64::from(*y) + f64::from(alpha) * sum) as f32;
        }
    }
}
