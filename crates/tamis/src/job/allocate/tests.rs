//! Shares as numbers: they have the mean that was asked for, and no others do less damage.

use super::share::{Curve, MOST, least_damage, level};

fn mean(shares: &[f64], weights: &[f64]) -> f64 {
    let sum: f64 = shares.iter().zip(weights).map(|(s, w)| s * w).sum();
    sum / weights.iter().sum::<f64>()
}

#[test]
fn levelled_shares_keep_their_distances_and_the_mean() {
    let weights = [1.0, 2.0, 3.0];
    let shares = level(&[0.1, 0.2, 0.4], &weights, 0.5);
    assert!((mean(&shares, &weights) - 0.5).abs() < 1e-9, "{shares:?}");
    assert!((shares[1] - shares[0] - 0.1).abs() < 1e-9 && (shares[2] - shares[1] - 0.2).abs() < 1e-9);
}

#[test]
fn levelled_shares_stay_between_nothing_and_the_most() {
    let weights = [1.0; 4];
    let shares = level(&[-2.0, 0.0, 0.1, 3.0], &weights, 0.3);
    assert!((mean(&shares, &weights) - 0.3).abs() < 1e-9, "{shares:?}");
    assert_eq!((shares[0], shares[3]), (0.0, MOST));
}

#[test]
fn equal_curves_lose_the_same() {
    let shares = least_damage(&[Curve { c: 2.0, p: 2.0 }; 3], &[1.0; 3], (0.25, MOST));
    assert!(shares.iter().all(|s| (s - 0.25).abs() < 1e-9), "{shares:?}");
}

#[test]
fn no_exchange_between_two_units_lowers_the_damage() {
    let curves = [(1.0, 2.0), (30.0, 1.5), (0.2, 3.0), (0.01, 2.0)].map(|(c, p)| Curve { c, p });
    let weights = [1.0, 2.0, 1.0, 3.0];
    let damage = |shares: &[f64]| -> f64 { curves.iter().zip(shares).map(|(k, s)| k.c * s.powf(k.p)).sum() };
    let best = least_damage(&curves, &weights, (0.4, MOST));
    assert!((mean(&best, &weights) - 0.4).abs() < 1e-9, "{best:?}");
    for from in 0..4 {
        for to in 0..4 {
            let mut other = best.clone();
            other[from] -= 1e-4 / weights[from];
            other[to] += 1e-4 / weights[to];
            let allowed = from != to && other.iter().all(|s| (0.0..=MOST).contains(s));
            assert!(!allowed || damage(&other) >= damage(&best), "{from} to {to}");
        }
    }
}

#[test]
fn nobody_loses_more_than_the_most() {
    let curves = [Curve { c: 1e-6, p: 2.0 }, Curve { c: 1.0, p: 2.0 }];
    let shares = least_damage(&curves, &[1.0; 2], (0.3, 0.5));
    assert!((shares[0] - 0.5).abs() < 1e-9 && (shares[1] - 0.1).abs() < 1e-9, "{shares:?}");
}

#[test]
fn a_curve_goes_through_what_was_measured() {
    let curve = Curve::through([(0.2, 0.04), (0.4, 0.16)]);
    assert!((curve.c - 1.0).abs() < 1e-9 && (curve.p - 2.0).abs() < 1e-9, "{curve:?}");
    let noise = Curve::through([(0.2, 0.0), (0.4, -1e-9)]);
    assert!(noise.c > 0.0 && noise.p > 1.0, "{noise:?}");
}
