//! The roofline kernels as plain loops: what they must compute, slowly.

/// The largest value, minus infinity for none.
pub fn largest(data: &[f32]) -> f32 {
    data.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// One lane of an f32 chain after `rounds` steps of `s = s * DECAY + GAIN` from `start`, in f64.
pub fn f32_lane(start: f64, rounds: usize) -> f64 {
    (0..rounds).fold(start, |s, _| s * f64::from(super::chains::DECAY) + f64::from(super::chains::GAIN))
}

/// One lane of a chain of dot products of `pairs` products after `rounds` steps from `start`.
pub fn dot_lane(start: f64, pairs: usize, rounds: usize) -> f64 {
    let (a, b) = super::chains::FACTORS;
    start + (rounds * pairs) as f64 * f64::from(a) * f64::from(b)
}
