//! The references of the step and of the sum of squares, in f64.

use super::AdamStep;

/// One step over `[params, m, v]`.
pub fn adam_step(state: &mut [Vec<f64>; 3], grads: &[f32], step: &AdamStep) {
    let [params, means, squares] = state;
    let number = |v: f32| f64::from(v);
    let (b1, b2, lr) = (number(step.beta1), number(step.beta2), number(step.lr));
    let (c1, c2) = (1.0 - b1.powf(f64::from(step.step)), 1.0 - b2.powf(f64::from(step.step)));
    for (i, g) in grads.iter().enumerate() {
        let g = number(*g) * number(step.gradient_scale);
        params[i] *= 1.0 - lr * number(step.weight_decay);
        means[i] = b1 * means[i] + (1.0 - b1) * g;
        squares[i] = b2 * squares[i] + (1.0 - b2) * g * g;
        params[i] -= lr / c1 * means[i] / (squares[i].sqrt() / c2.sqrt() + number(step.eps));
    }
}

/// `sum x^2`.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum()
}
