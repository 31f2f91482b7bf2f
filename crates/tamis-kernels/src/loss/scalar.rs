//! The references of the losses and of their gradients, one row, in f64.

use super::Weight;

/// `ln sum e^x` of some numbers.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + values.map(|x| (x - max).exp()).sum::<f64>().ln() }
}

/// `-ln softmax(row)[target]` and its gradient times `scale`.
pub fn cross_entropy(row: &[f64], target: usize, scale: f64) -> (f64, Vec<f64>) {
    let all = log_sum_exp(row.iter().copied());
    let one = |j: usize| if j == target { 1.0 } else { 0.0 };
    let gradient = row.iter().enumerate().map(|(j, x)| scale * ((x - all).exp() - one(j))).collect();
    (all - row[target], gradient)
}

/// The divergence of one row from a teacher's `(id, log-probability)` pairs, and its gradient
/// times `scale`: by the definition of the loss and the textbook form of the gradient,
/// `q_j - p_j` and `q_j (1 - p_t / q_t)`.
pub fn divergence(row: &[f64], teacher: &[(usize, f64)], weight: Weight) -> (f64, Vec<f64>) {
    let temperature = f64::from(weight.temperature);
    let u: Vec<f64> = row.iter().map(|z| z / temperature).collect();
    let all = log_sum_exp(u.iter().copied());
    let known = |j: usize| teacher.iter().any(|&(id, _)| id == j);
    let tail = log_sum_exp((0..u.len()).filter(|&j| !known(j)).map(|j| u[j]).collect::<Vec<_>>().into_iter());
    let top_mass: f64 = teacher.iter().map(|(_, log_p)| log_p.exp()).sum();
    let p_tail = if teacher.len() < row.len() { (1.0 - top_mass).max(0.0) } else { 0.0 };
    let term = |&(id, log_p): &(usize, f64)| {
        if log_p.exp() > 0.0 { log_p.exp() * (log_p - (u[id] - all)) } else { 0.0 }
    };
    let mut loss: f64 = teacher.iter().map(term).sum();
    let mut ratio = 0.0;
    if p_tail > 0.0 {
        loss += p_tail * (p_tail.ln() - (tail - all));
        ratio = p_tail / (tail - all).exp();
    }
    let slope = |j: usize| {
        let q = (u[j] - all).exp();
        let p = teacher.iter().find(|&&(id, _)| id == j).map(|(_, log_p)| log_p.exp());
        let mass = top_mass + p_tail;
        f64::from(weight.scale) / temperature * p.map_or(q * (mass - ratio), |p| mass * q - p)
    };
    (loss, (0..u.len()).map(slope).collect())
}
