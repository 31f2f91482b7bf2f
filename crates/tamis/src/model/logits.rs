//! What can be read off a row of logits: the largest, log-sum-exp, softmax weights, and the
//! Kullback-Leibler divergence of two rows. Knows no tokens and no models.
//!
//! A vocabulary has 50,000 to 250,000 entries and an evaluation some 100,000 rows, so the
//! exponential is a polynomial on fixed lanes that the compiler vectorises. It uses only
//! additions, multiplications and bit shifts, so a row gives the same bits on every machine.
//!
//! `exp(t) = 2^k exp(r)`, `k = round(t / ln 2)`, `|r| <= ln 2 / 2`, and `exp(r)` by its Taylor
//! series: the first dropped term is `r^7 / 7! < 1.3e-7` in f32, `r^10 / 10! < 8e-12` in f64.

/// Independent sums of a loop; a fixed number, so that the order of additions is fixed.
const LANES: usize = 8;

/// Below this, `exp` in f32 would leave the normal numbers.
const FLOOR_F32: f32 = -87.0;
/// The same in f64.
const FLOOR_F64: f64 = -700.0;

/// `exp(t)` for `t <= 0`, relative error below 3e-7. `t` must not be NaN.
#[inline(always)]
fn exp_f32(t: f32) -> f32 {
    /// `1.5 * 2^23`: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has 9 significant bits, so `k * HIGH` is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let t = if t < FLOOR_F32 { FLOOR_F32 } else { t };
    let shifted = t * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = t - k * LN2_HIGH - k * LN2_LOW;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `exp(t)` for `t <= 0`, relative error below 2e-11. `t` must not be NaN.
#[inline(always)]
fn exp_f64(t: f64) -> f64 {
    /// `1.5 * 2^52`, as in [`exp_f32`].
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let t = if t < FLOOR_F64 { FLOOR_F64 } else { t };
    let shifted = t * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = t - k * LN2_HIGH - k * LN2_LOW;
    let mut p = 1.0 / 362_880.0;
    for c in [1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    f64::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 52))
}

/// The largest logit, or `None` if a logit is NaN or infinite or there is none.
fn finite_max(row: &[f32]) -> Option<f32> {
    let mut largest = [f32::NEG_INFINITY; 2 * LANES];
    let mut poison = [0.0f32; 2 * LANES];
    let (blocks, rest) = row.as_chunks::<{ 2 * LANES }>();
    for block in blocks {
        for i in 0..2 * LANES {
            largest[i] = if block[i] > largest[i] { block[i] } else { largest[i] };
            // 0 for a finite number, NaN for the others; a maximum alone would skip NaN.
            poison[i] += block[i] * 0.0;
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        largest[i] = largest[i].max(x);
        poison[i] += x * 0.0;
    }
    let finite = poison.iter().all(|p| *p == 0.0) && !row.is_empty();
    finite.then(|| largest.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// Id of the largest logit, the lowest id on ties; `None` for a row that is not finite.
pub fn argmax(row: &[f32]) -> Option<u32> {
    let largest = finite_max(row)?;
    row.iter().position(|x| *x == largest).map(|id| id as u32)
}

/// `ln(sum exp(x_i))`; `None` for a row that is not finite.
///
/// Differences from the maximum and their exponentials are f32, the sum is f64. The error is
/// that of the exponentials, averaged: below 3e-7 absolute, some 1e-8 in practice.
pub fn log_sum_exp(row: &[f32]) -> Option<f64> {
    let largest = finite_max(row)?;
    let mut sums = [0.0f64; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            sums[i] += f64::from(exp_f32(block[i] - largest));
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        sums[i] += f64::from(exp_f32(x - largest));
    }
    Some(f64::from(largest) + sums.iter().sum::<f64>().ln())
}

/// `exp((x_i - max x) / temperature)` in f64: softmax without its divisor, so the largest is 1.
/// `None` for a row that is not finite.
pub fn softmax_weights(row: &[f32], temperature: f64) -> Option<Vec<f64>> {
    let largest = f64::from(finite_max(row)?);
    Some(row.iter().map(|&x| exp_f64((f64::from(x) - largest) / temperature)).collect())
}

/// `KL(p || q) = sum p_i (ln p_i - ln q_i)` of `p = softmax(x)`, `q = softmax(y)`, in nats;
/// `None` if a row is not finite.
///
/// With `u = x - max x`, `v = y - max y`, `e_i = exp(u_i)`, `P = sum e_i`, `Q = sum exp(v_i)`:
/// `KL = (sum e_i (u_i - v_i)) / P - ln P + ln Q`. All of it is f64, because the three terms
/// cancel: with f32 exponentials a divergence of 1e-6 would carry an error of 5 %. Equal rows
/// give exactly 0.
///
/// # Panics
///
/// If the rows differ in length.
pub fn divergence(x: &[f32], y: &[f32]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "rows of one vocabulary");
    let (x_max, y_max) = (f64::from(finite_max(x)?), f64::from(finite_max(y)?));
    let mut p_sum = [0.0f64; LANES];
    let mut q_sum = [0.0f64; LANES];
    let mut weighted = [0.0f64; LANES];
    let mut add = |lane: usize, x: f32, y: f32| {
        let (u, v) = (f64::from(x) - x_max, f64::from(y) - y_max);
        let e = exp_f64(u);
        p_sum[lane] += e;
        q_sum[lane] += exp_f64(v);
        weighted[lane] += e * (u - v);
    };
    let ((x_blocks, x_rest), (y_blocks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for i in 0..LANES {
            add(i, x[i], y[i]);
        }
    }
    for (i, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
        add(i, x, y);
    }
    let (p, q) = (p_sum.iter().sum::<f64>(), q_sum.iter().sum::<f64>());
    // Rounding may leave -1e-17 where the divergence is 0.
    Some((weighted.iter().sum::<f64>() / p - p.ln() + q.ln()).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits with the spread of a real model's, from a fixed recurrence.
    fn row(length: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0
        };
        (0..length).map(|_| 30.0 * next() * next() - 10.0).collect()
    }

    fn exact_lse(row: &[f32]) -> f64 {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        max + row.iter().map(|&x| (x as f64 - max).exp()).sum::<f64>().ln()
    }

    #[test]
    fn exponentials_keep_their_bounds() {
        let (mut worst_32, mut worst_64) = (0.0f64, 0.0f64);
        for i in 0..870_000 {
            let t = -(i as f32) * 1e-4;
            let exact = (t as f64).exp();
            worst_32 = worst_32.max((exp_f32(t) as f64 / exact - 1.0).abs());
            worst_64 = worst_64.max((exp_f64(t as f64) / exact - 1.0).abs());
        }
        assert!(worst_32 < 3e-7, "{worst_32:e}");
        assert!(worst_64 < 2e-11, "{worst_64:e}");
        assert_eq!((exp_f32(0.0), exp_f64(0.0)), (1.0, 1.0));
        assert!(exp_f32(-1e9) < 2e-38 && exp_f32(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_f64(-1e9) < 1e-300);
    }

    #[test]
    fn log_sum_exp_agrees_with_the_plain_sum() {
        for length in [1, 7, 8, 9, 15, 16, 17, 31, 512, 49_152] {
            let row = row(length, length as u64);
            let error = (log_sum_exp(&row).unwrap() - exact_lse(&row)).abs();
            assert!(error < 2e-7, "{length}: {error:e}");
        }
    }

    #[test]
    fn divergence_agrees_with_the_definition() {
        for length in [1, 7, 8, 9, 512, 49_152] {
            let x = row(length, 1);
            let y: Vec<f32> = x.iter().zip(row(length, 2)).map(|(x, n)| x + 1e-3 * n).collect();
            let (lp, lq) = (exact_lse(&x), exact_lse(&y));
            let exact: f64 = x
                .iter()
                .zip(&y)
                .map(|(&x, &y)| (x as f64 - lp).exp() * ((x as f64 - lp) - (y as f64 - lq)))
                .sum();
            let got = divergence(&x, &y).unwrap();
            assert!((got - exact).abs() < 1e-12 + 1e-9 * exact, "{length}: {got:e} {exact:e}");
        }
    }

    #[test]
    fn divergence_of_known_distributions() {
        // p = (1/2, 1/2), q = (3/4, 1/4): KL = ln(4/3) / 2.
        let got = divergence(&[1.0, 1.0], &[3f32.ln(), 0.0]).unwrap();
        assert!((got - (4.0f64 / 3.0).ln() / 2.0).abs() < 1e-7, "{got}");
        let x = row(1000, 5);
        let shifted: Vec<f32> = x.iter().map(|x| x + 4.0).collect();
        assert_eq!(divergence(&x, &x), Some(0.0));
        assert!(divergence(&x, &shifted).unwrap() < 1e-9, "a shift changes no probability");
    }

    #[test]
    fn a_row_that_is_not_finite_has_no_answer() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 15, 16, 20] {
                let mut x = row(21, 3);
                x[place] = bad;
                assert_eq!(argmax(&x), None);
                assert_eq!(log_sum_exp(&x), None);
                assert_eq!(softmax_weights(&x, 1.0), None);
                assert_eq!(divergence(&x, &row(21, 3)), None);
                assert_eq!(divergence(&row(21, 3), &x), None);
            }
        }
        assert_eq!(log_sum_exp(&[]), None);
    }

    #[test]
    fn the_lowest_id_wins_a_tie() {
        let mut x = vec![0.0; 40];
        (x[33], x[17]) = (2.0, 2.0);
        assert_eq!(argmax(&x), Some(17));
    }
}
