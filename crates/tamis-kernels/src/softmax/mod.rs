//! Softmax, log-softmax, log-sum-exp and Kullback-Leibler divergence over rows of
//! logits. `log_softmax(x) = x - max - ln sum e^(x - max)`.
//!
//! A vocabulary is long, so sums are f32 only over `BLOCK` values, then f64.

pub mod scalar;

use crate::isa::{Isa, per_isa};
use crate::lanes::{Lanes, exp};
use crate::pool::Cpu;

/// Values summed in f32 before the sum goes to f64.
const BLOCK: usize = 512;

/// Replaces each row of `rows [m, width]` by its log-probabilities.
///
/// # Panics
/// If `rows` is not whole rows.
pub fn log_softmax(cpu: &Cpu, rows: &mut [f32], width: usize) {
    check(rows, width);
    cpu.pool.run_chunks(rows, width, &|_, row| {
        let total = log_sum_exp(cpu.isa, row) as f32;
        row.iter_mut().for_each(|x| *x -= total);
    });
}

/// Replaces each row of `rows [m, width]` by its probabilities.
///
/// # Panics
/// If `rows` is not whole rows.
pub fn softmax(cpu: &Cpu, rows: &mut [f32], width: usize) {
    check(rows, width);
    cpu.pool.run_chunks(rows, width, &|_, row| {
        let top = max(cpu.isa, row);
        let scale = (1.0 / exp_sum_in_place(cpu.isa, row, top)) as f32;
        row.iter_mut().for_each(|x| *x *= scale);
    });
}

/// `ln sum e^x` of one row; minus infinity for an empty one.
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f64 {
    let top = max(isa, row);
    if top == f32::NEG_INFINITY {
        // Nothing but minus infinity, unless a NaN hides behind it.
        return row.iter().fold(f64::from(top), |sum, &x| sum + f64::from(x));
    }
    f64::from(top) + exp_sum(isa, row, top).ln()
}

/// `x = e^x` in place, within 2 units in the last place.
pub fn exp_in_place(isa: Isa, x: &mut [f32]) {
    exp_sum_in_place(isa, x, 0.0);
}

/// `sum_i p_i (ln p_i - ln q_i)` of two rows of log-probabilities, in nats.
///
/// # Panics
/// If the rows differ in length.
pub fn kl_divergence(isa: Isa, log_p: &[f32], log_q: &[f32]) -> f64 {
    assert_eq!(log_p.len(), log_q.len());
    kl_sum(isa, log_p, log_q)
}

fn check(rows: &[f32], width: usize) {
    assert!(width > 0 && rows.len().is_multiple_of(width), "{} values are no rows of {width}", rows.len());
}

per_isa! {
    /// The largest value; minus infinity for an empty row.
    pub(crate) fn max<L>(l, row: &[f32]) -> f32 {
        let mut top = l.splat(f32::NEG_INFINITY);
        let whole = row.chunks_exact(L::WIDTH);
        let rest = whole.remainder();
        for x in whole {
            top = l.max(l.load(x), top);
        }
        rest.iter().fold(l.max_lane(top), |m, &x| if x > m { x } else { m })
    }
}

per_isa! {
    fn exp_sum<L>(l, row: &[f32], top: f32) -> f64 {
        let tops = l.splat(top);
        let mut total = 0.0;
        for block in row.chunks(BLOCK) {
            let mut sums = l.splat(0.0);
            let whole = block.chunks_exact(L::WIDTH);
            let last = padded(whole.remainder());
            for x in whole {
                sums = l.add(sums, exp(l, l.sub(l.load(x), tops)));
            }
            sums = l.add(sums, exp(l, l.sub(l.load(&last), tops)));
            total += f64::from(l.sum(sums));
        }
        total
    }
}

per_isa! {
    /// `x = e^(x - top)` in place; gives the sum.
    pub(crate) fn exp_sum_in_place<L>(l, row: &mut [f32], top: f32) -> f64 {
        let tops = l.splat(top);
        let mut total = 0.0;
        for block in row.chunks_mut(BLOCK) {
            let mut sums = l.splat(0.0);
            let mut whole = block.chunks_exact_mut(L::WIDTH);
            for x in whole.by_ref() {
                let e = exp(l, l.sub(l.load(x), tops));
                sums = l.add(sums, e);
                l.store(x, e);
            }
            let rest = whole.into_remainder();
            let e = exp(l, l.sub(l.load(&padded(rest)), tops));
            sums = l.add(sums, e);
            l.store_short(rest, e);
            total += f64::from(l.sum(sums));
        }
        total
    }
}

/// A short slice with minus infinity behind it: `e^x` adds nothing there.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; 16] {
    let mut last = [f32::NEG_INFINITY; 16];
    last[..rest.len()].copy_from_slice(rest);
    last
}

per_isa! {
    fn kl_sum<L>(l, p: &[f32], q: &[f32]) -> f64 {
        let mut total = 0.0;
        for (p, q) in p.chunks(BLOCK).zip(q.chunks(BLOCK)) {
            let mut sums = l.splat(0.0);
            let (ps, qs) = (p.chunks_exact(L::WIDTH), q.chunks_exact(L::WIDTH));
            let (p_rest, q_rest) = (ps.remainder(), qs.remainder());
            for (p, q) in ps.zip(qs) {
                sums = l.add(sums, kl_term(l, l.load(p), l.load(q)));
            }
            sums = l.add(sums, kl_term(l, l.load_short(p_rest), l.load_short(q_rest)));
            total += f64::from(l.sum(sums));
        }
        total
    }
}

/// `e^p (p - q)`, 0 where p is minus infinity (or below what `exp` resolves).
#[inline(always)]
fn kl_term<L: Lanes>(l: L, p: L::F, q: L::F) -> L::F {
    let zero = l.splat(0.0);
    l.select_lt(p, l.splat(-87.0), zero, l.mul(exp(l, p), l.sub(p, q)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::noise;

    fn logits(len: usize, seed: u32) -> Vec<f32> {
        noise(len, seed).iter().map(|x| 30.0 * x).collect()
    }

    #[test]
    fn every_isa_agrees_with_the_reference() {
        for width in [1, 7, 8, 9, 15, 16, 17, 511, 512, 513, 49_152] {
            let x = logits(2 * width, 1);
            let exact = scalar::log_sum_exp(&x[..width]);
            for isa in Isa::available() {
                assert!((log_sum_exp(isa, &x[..width]) - exact).abs() < 1e-6, "{}", isa.name());
                let mut y = x.clone();
                log_softmax(&Cpu::new(isa, 2), &mut y, width);
                for (x, y) in x[..width].iter().zip(&y) {
                    assert!((f64::from(*y) - (f64::from(*x) - exact)).abs() < 4e-6);
                }
                let mut p = x.clone();
                softmax(&Cpu::new(isa, 2), &mut p, width);
                for (y, p) in y.iter().zip(&p) {
                    assert!((f64::from(*p) - f64::from(*y).exp()).abs() < 1e-5);
                }
                let (p, q) = y.split_at(width);
                let (kl, reference) = (kl_divergence(isa, p, q), scalar::kl_divergence(p, q));
                assert!((kl - reference).abs() < 1e-5 * (1.0 + reference), "{kl} {reference}");
            }
        }
    }

    #[test]
    fn equal_rows_have_no_divergence_and_impossible_values_count_nothing() {
        for isa in Isa::available() {
            let p = [f32::NEG_INFINITY, -std::f32::consts::LN_2, -std::f32::consts::LN_2];
            assert_eq!(kl_divergence(isa, &p, &p), 0.0);
            assert_eq!(log_sum_exp(isa, &[]), f64::NEG_INFINITY);
            assert!(log_sum_exp(isa, &[f32::NAN, 1.0]).is_nan());
            assert!(log_sum_exp(isa, &[f32::NAN]).is_nan());
            let mut x = [0.0, f32::NEG_INFINITY];
            exp_in_place(isa, &mut x);
            assert_eq!(x, [1.0, 0.0]);
        }
    }
}
