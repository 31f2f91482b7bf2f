//! Norms over rows: RMS norm `x / sqrt(mean(x^2) + eps) * w` and layer norm
//! `(x - mean) / sqrt(var + eps) * w + b`. A model's unit offset is already in `w`.
//!
//! Layer norm takes its variance from `x - mean` in a second pass: the one-pass
//! formula cancels where the mean is large.

mod gradient;
pub mod scalar;

pub use gradient::{NormInput, layer_norm_gradient, rms_norm_gradient};

use crate::isa::per_isa;
use crate::lanes::Lanes;
use crate::pool::Cpu;

/// Values of x in a task.
const TASK_VALUES: usize = 1 << 14;

/// RMS norm of each row of `x [m, n]`, `n = weight.len()`.
///
/// # Panics
/// If `x` is not whole rows or `out` is not of the same length.
pub fn rms_norm(cpu: &Cpu, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = check(x, weight, out);
    rows(cpu, n, out, &|first, out| rms_rows(cpu.isa, &x[first..][..out.len()], weight, eps, out));
}

/// Layer norm of each row of `x [m, n]`, `n = weight.len() = bias.len()`.
///
/// # Panics
/// If `x` is not whole rows or the lengths do not agree.
pub fn layer_norm(cpu: &Cpu, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = check(x, weight, out);
    assert_eq!(bias.len(), n);
    rows(cpu, n, out, &|first, out| {
        layer_rows(cpu.isa, &x[first..][..out.len()], (weight, bias), eps, out);
    });
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) -> usize {
    let n = weight.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "{} values are no rows of {n}", x.len());
    assert_eq!(out.len(), x.len());
    n
}

/// Calls `task` with whole rows and the index of their first value.
fn rows(cpu: &Cpu, n: usize, out: &mut [f32], task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let chunk = (TASK_VALUES / n).max(1) * n;
    cpu.pool.run_chunks(out, chunk, &|i, out| task(i * chunk, out));
}

per_isa! {
    fn rms_rows<L>(l, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let mean = squares(l, x, 0.0) / n as f32;
            let scale = l.splat(1.0 / (mean + eps).sqrt());
            let mut i = 0;
            while i + L::WIDTH <= n {
                let v = l.mul(l.mul(l.load(&x[i..]), scale), l.load(&weight[i..]));
                l.store(&mut out[i..], v);
                i += L::WIDTH;
            }
            let v = l.mul(l.mul(l.load_short(&x[i..]), scale), l.load_short(&weight[i..]));
            l.store_short(&mut out[i..], v);
        }
    }
}

per_isa! {
    fn layer_rows<L>(l, x: &[f32], affine: (&[f32], &[f32]), eps: f32, out: &mut [f32]) {
        let (weight, bias) = affine;
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let mean = total(l, x) / n as f32;
            let scale = l.splat(1.0 / (squares(l, x, mean) / n as f32 + eps).sqrt());
            let mean = l.splat(mean);
            let mut i = 0;
            while i + L::WIDTH <= n {
                let v = l.mul(l.sub(l.load(&x[i..]), mean), scale);
                l.store(&mut out[i..], l.fma(v, l.load(&weight[i..]), l.load(&bias[i..])));
                i += L::WIDTH;
            }
            let v = l.mul(l.sub(l.load_short(&x[i..]), mean), scale);
            let v = l.fma(v, l.load_short(&weight[i..]), l.load_short(&bias[i..]));
            l.store_short(&mut out[i..], v);
        }
    }
}

/// `sum x`.
#[inline(always)]
fn total<L: Lanes>(l: L, x: &[f32]) -> f32 {
    let mut sums = l.splat(0.0);
    let whole = x.chunks_exact(L::WIDTH);
    let rest = l.load_short(whole.remainder());
    for x in whole {
        sums = l.add(sums, l.load(x));
    }
    l.sum(l.add(sums, rest))
}

/// `sum (x - mean)^2`.
#[inline(always)]
fn squares<L: Lanes>(l: L, x: &[f32], mean: f32) -> f32 {
    let (mut sums, means) = (l.splat(0.0), l.splat(mean));
    let whole = x.chunks_exact(L::WIDTH);
    let rest = whole.remainder();
    for x in whole {
        let d = l.sub(l.load(x), means);
        sums = l.fma(d, d, sums);
    }
    // The lanes behind the rest must count nothing, so they hold the mean.
    let mut last = [mean; 16];
    last[..rest.len()].copy_from_slice(rest);
    let d = l.sub(l.load(&last), means);
    l.sum(l.fma(d, d, sums))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    #[test]
    fn norms_agree_with_the_reference() {
        for (m, n) in [(0, 4), (1, 1), (2, 7), (3, 8), (2, 15), (1, 16), (4, 17), (3, 172), (70, 576)] {
            let (x, w, b) = (noise(m * n, 1), noise(n, 2), noise(n, 3));
            let x: Vec<f32> = x.iter().map(|v| v + 3.0).collect();
            let (mut rms, mut layer) = (vec![0.0; m * n], vec![0.0; m * n]);
            scalar::rms_norm(&x, &w, 1e-5, &mut rms);
            scalar::layer_norm(&x, &w, &b, 1e-5, &mut layer);
            for isa in Isa::available() {
                let cpu = Cpu::new(isa, 2);
                let mut y = vec![0.0; m * n];
                rms_norm(&cpu, &x, &w, 1e-5, &mut y);
                assert!(y.iter().zip(&rms).all(|(a, b)| (a - b).abs() < 1e-6), "{}", isa.name());
                layer_norm(&cpu, &x, &w, &b, 1e-5, &mut y);
                // The mean is ten times the deviation: one digit is lost.
                assert!(y.iter().zip(&layer).all(|(a, b)| (a - b).abs() < 1e-5), "{}", isa.name());
            }
        }
    }

    #[test]
    fn rows_and_threads_do_not_change_bits() {
        let (m, n) = (100, 577);
        let (x, w) = (noise(m * n, 1), noise(n, 2));
        for isa in Isa::available() {
            let mut alone = vec![0.0; m * n];
            for (x, y) in x.chunks_exact(n).zip(alone.chunks_exact_mut(n)) {
                rms_norm(&Cpu::new(isa, 1), x, &w, 1e-6, y);
            }
            for threads in [2, 3, 8] {
                let mut y = vec![0.0; m * n];
                rms_norm(&Cpu::new(isa, threads), &x, &w, 1e-6, &mut y);
                assert_eq!(y, alone);
            }
        }
    }
}
