//! The references of the activations and of their slopes, in f64.

/// `x / (1 + e^-x)`.
pub fn silu(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-x).exp())
}

/// `x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub fn gelu_tanh(x: f32) -> f64 {
    let x = f64::from(x);
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}

/// `x / 2 (1 + erf(x / sqrt 2))`, with erf by its power series below 3 and the
/// continued fraction of erfc above.
pub fn gelu(x: f32) -> f64 {
    let x = f64::from(x);
    let z = x.abs() / std::f64::consts::SQRT_2;
    let tail = if z < 3.0 { 1.0 - erf_series(z) } else { erfc_fraction(z) };
    if x < 0.0 { 0.5 * x * tail } else { 0.5 * x * (2.0 - tail) }
}

fn erf_series(z: f64) -> f64 {
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn erfc_fraction(z: f64) -> f64 {
    let fraction = (1..100).rev().fold(z, |f, n| z + 0.5 * f64::from(n) / f);
    (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
}

/// The derivative of `silu`.
pub fn silu_slope(x: f32) -> f64 {
    let x = f64::from(x);
    let s = 1.0 / (1.0 + (-x).exp());
    s + x * s * (1.0 - s)
}

/// The derivative of `gelu_tanh`.
pub fn gelu_tanh_slope(x: f32) -> f64 {
    let x = f64::from(x);
    let a = (2.0 / std::f64::consts::PI).sqrt();
    let t = (a * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * a * (1.0 + 3.0 * 0.044715 * x * x)
}

/// The derivative of `gelu`.
pub fn gelu_slope(x: f32) -> f64 {
    let z = f64::from(x);
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // gelu(x) = x F(x).
    let share = if z == 0.0 { 0.5 } else { gelu(x) / z };
    share + z * density
}

/// The derivative of ReLU, 0 at 0.
pub fn relu_slope(x: f32) -> f64 {
    if x > 0.0 { 1.0 } else { 0.0 }
}
