//! Small made-up layers for tests: correlated inputs, a few outlier weights. It knows
//! no method.
//!
//! After the synthetic layers of SpQR-style studies (Dettmers 2023, arXiv 2306.03078):
//! a shared low-rank part makes inputs correlated, some channels are loud.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::factor::Gram;

/// Standard normal numbers, the same for the same seed.
pub(crate) struct Normal(ChaCha8Rng);

impl Normal {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Box and Muller.
    pub(crate) fn next(&mut self) -> f32 {
        let mut uniform = || (f64::from(self.0.next_u32()) + 0.5) / 4_294_967_296.0;
        let (a, b) = (uniform(), uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

/// `sum x x^T` of `tokens` inputs: noise, a shared part of rank `size / 8`, loud channels.
pub(crate) fn correlated_gram(size: usize, tokens: usize, seed: u64) -> Gram {
    let mut normal = Normal::new(seed);
    let rank = (size / 8).max(1);
    let mix: Vec<f32> = (0..rank * size).map(|_| normal.next()).collect();
    let loud: Vec<f32> = (0..size).map(|_| (0.5 * normal.next()).exp()).collect();
    let mut sum = vec![0.0f64; size * size];
    for _ in 0..tokens {
        let shared: Vec<f32> = (0..rank).map(|_| normal.next()).collect();
        let x: Vec<f64> = (0..size)
            .map(|j| {
                let common: f32 = (0..rank).map(|r| shared[r] * mix[r * size + j]).sum();
                f64::from(loud[j] * (0.5 * normal.next() + common / (rank as f32).sqrt()))
            })
            .collect();
        for i in 0..size {
            for j in 0..=i {
                sum[i * size + j] += x[i] * x[j];
            }
        }
    }
    Gram::new(size, tokens as u64, sum).expect("finite by construction")
}

/// Normal weights `[rows, cols]` of which 0.3 % are six times larger.
pub(crate) fn weights(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut normal = Normal::new(seed);
    (0..rows * cols)
        .map(|at| {
            let w = 0.05 * normal.next();
            if (at * 7919 + 13) % 1000 < 3 { 6.0 * w } else { w }
        })
        .collect()
}
