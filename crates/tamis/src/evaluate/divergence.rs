//! How far a compressed model's predictions lie from the dense model's, token by token: the
//! Kullback-Leibler divergence `KL(dense || compressed)` at every scored position, and how
//! often both would pick the same token. Knows no model; `model/logits.rs` has the formula.
//!
//! Unlike perplexity it needs no true token and cannot improve by chance, so it tells small
//! differences apart on little text.

use serde::Serialize;

use super::perplexity::mean_and_stderr;
use crate::units::Alpha;

/// What was found at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// `KL(dense || compressed)` in nats.
    pub(super) kl: f64,
    /// Whether the most likely token is the same (lowest id on ties).
    pub(super) same_top1: bool,
}

/// Statistics of `KL(dense || compressed)` over all scored positions, in nats.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Ortho share it was measured at.
    pub alpha: Alpha,
    /// Mean.
    pub mean: f64,
    /// Standard error of the mean, positions taken as independent.
    pub stderr: f64,
    /// Median.
    pub median: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Share of positions with the same most likely token.
    pub same_top1: f64,
    /// Positions.
    pub tokens: usize,
}

impl Divergence {
    /// Of at least one sample.
    pub(super) fn new(alpha: Alpha, samples: &[Sample]) -> Self {
        let (mean, stderr) = mean_and_stderr(samples.iter().map(|s| s.kl));
        let mut sorted: Vec<f64> = samples.iter().map(|s| s.kl).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let same = samples.iter().filter(|s| s.same_top1).count();
        Self {
            alpha,
            mean,
            stderr,
            median: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            max: *sorted.last().expect("an evaluation scores at least one token"),
            same_top1: same as f64 / samples.len() as f64,
            tokens: samples.len(),
        }
    }
}

/// Quantile `q` at rank `q (n - 1)`, linear between neighbours (numpy's and llama.cpp's rule).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        let sorted: Vec<f64> = (0..5).map(|x| f64::from(x * x)).collect();
        assert_eq!(quantile(&sorted, 0.5), 4.0);
        assert!((quantile(&sorted, 0.99) - 15.72).abs() < 1e-12);
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
    }

    #[test]
    fn statistics_of_a_few_samples() {
        let samples: Vec<Sample> = [3.0, 0.0, 1.0, 0.0].map(|kl| Sample { kl, same_top1: kl < 2.0 }).to_vec();
        let divergence = Divergence::new(Alpha::ZERO, &samples);
        assert_eq!((divergence.mean, divergence.median, divergence.max), (1.0, 0.5, 3.0));
        assert_eq!((divergence.same_top1, divergence.tokens), (0.75, 4));
        assert!((divergence.stderr - (2.0f64 / 4.0).sqrt()).abs() < 1e-12);
    }
}
