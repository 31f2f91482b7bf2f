//! The references of the softmax family, in f64.

/// `ln sum e^x`.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// `sum_i p_i (ln p_i - ln q_i)` of two rows of log-probabilities.
pub fn kl_divergence(log_p: &[f32], log_q: &[f32]) -> f64 {
    let term = |(&p, &q): (&f32, &f32)| f64::from(p).exp() * (f64::from(p) - f64::from(q));
    log_p.iter().zip(log_q).filter(|(p, _)| **p > f32::NEG_INFINITY).map(term).sum()
}
