//! Shares that have the mean that was asked for. Knows no layers: numbers only.

/// The most that a layer may lose.
pub(super) const MOST: f64 = 0.95;

/// Halvings of an interval: more than an f64 has bits.
const HALVINGS: usize = 100;

/// What a share `s` costs: `c s^p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Curve {
    pub(super) c: f64,
    pub(super) p: f64,
}

impl Curve {
    /// Exponents that are believed: convex, and not so steep that a share beyond those measured could never be.
    const POWERS: (f64, f64) = (1.3, 4.0);
    /// Less damage than this is noise.
    const NOISE: f64 = 1e-6;

    /// Through two measured damages, the smaller share first.
    pub(super) fn through([(s, d), (t, e)]: [(f64, f64); 2]) -> Self {
        let (d, e) = (d.max(Self::NOISE), e.max(Self::NOISE));
        let p = ((e / d).ln() / (t / s).ln()).clamp(Self::POWERS.0, Self::POWERS.1);
        // In the middle of both, in logarithms, where the exponent was clamped.
        let c = (0.5 * ((d * e).ln() - p * (s * t).ln())).exp();
        Self { c, p }
    }
}

/// `wanted` shifted by one number and cut to `[0, MOST]`, so that the weighted mean is `mean`.
pub(super) fn level(wanted: &[f64], weights: &[f64], mean: f64) -> Vec<f64> {
    let shifted = |by: f64| wanted.iter().map(|w| (w + by).clamp(0.0, MOST)).collect();
    // Shifts of which the lower leaves nothing out, and the upper everything.
    let furthest = wanted.iter().fold(0.0_f64, |most, w| most.max(w.abs())) + 1.0;
    solve((-furthest, furthest), (weights, mean), shifted)
}

/// The shares of mean `mean`, none above `most`, with the least sum of damages.
//
// min sum c_i s_i^p_i with sum w_i s_i fixed: c_i p_i s_i^(p_i - 1) = lambda w_i where no bound holds,
// so s_i = (lambda w_i / (c_i p_i))^(1 / (p_i - 1)), which grows with lambda.
pub(super) fn least_damage(curves: &[Curve], weights: &[f64], (mean, most): (f64, f64)) -> Vec<f64> {
    let at = |log_lambda: f64| {
        let one = |(curve, w): (&Curve, &f64)| {
            let log = (log_lambda + w.ln() - (curve.c * curve.p).ln()) / (curve.p - 1.0);
            log.exp().min(most)
        };
        curves.iter().zip(weights).map(one).collect()
    };
    solve((-100.0, 100.0), (weights, mean), at)
}

/// The shares at the parameter, between two, at which their weighted mean is `mean`; they grow with it.
fn solve(
    (mut low, mut high): (f64, f64),
    (weights, mean): (&[f64], f64),
    shares: impl Fn(f64) -> Vec<f64>,
) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        let sum: f64 = shares(middle).iter().zip(weights).map(|(s, w)| s * w).sum();
        if sum > mean * total { high = middle } else { low = middle }
    }
    shares(low)
}
