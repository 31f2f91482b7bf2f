//! The reference of the Gram matrix: plain loops, sums in f64.

use crate::linear::Precision;

/// `g[i, j] += sum_t x[t, i] * x[t, j]`, operands rounded as `precision` says.
pub fn gram_add(x: &[f32], k: usize, precision: Precision, g: &mut [f64]) {
    let round = |v: f32| match precision {
        Precision::F32 => f64::from(v),
        Precision::Bf16 => half::bf16::from_f32(v).to_f64(),
    };
    for row in x.chunks_exact(k) {
        for (&a, g) in row.iter().zip(g.chunks_exact_mut(k)) {
            for (&b, g) in row.iter().zip(g) {
                *g += round(a) * round(b);
            }
        }
    }
}
