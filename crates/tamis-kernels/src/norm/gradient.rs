//! The gradients of the norms. With `v = x - mean` (RMS norm: `v = x`), `s = 1 / sqrt(mean(v^2)
//! + eps)`, the normed `h = v s` and `g = dy w`:
//! `dx = s (g - mean(g) - h mean(g h))` (RMS norm: without `mean(g)`), `dw += sum_rows dy h`,
//! `db += sum_rows dy`.
//!
//! Sums over rows: a task adds its rows in order to sums of its own, and tasks are added in
//! order. The rows of a task do not depend on the threads.

use super::{TASK_VALUES, squares, total};
use crate::isa::per_isa;
use crate::lanes::Lanes;
use crate::pool::{Cpu, Disjoint};

/// Fewest rows in a task: so many rows share one row of sums.
const TASK_ROWS: usize = 16;

/// What a norm was taken of.
#[derive(Debug, Clone, Copy)]
pub struct NormInput<'a> {
    /// Rows `[m, n]`.
    pub x: &'a [f32],
    /// `[n]`.
    pub weight: &'a [f32],
    /// What is added to the mean square.
    pub eps: f32,
}

/// The gradient of `rms_norm`: writes `dx [m, n]` and adds to `dweight [n]`.
///
/// # Panics
/// If `x` is not whole rows or the lengths do not agree.
pub fn rms_norm_gradient(cpu: &Cpu, input: NormInput<'_>, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    gradient(cpu, Kind::Rms, input, dy, (dx, dweight, &mut []));
}

/// The gradient of `layer_norm`: writes `dx [m, n]` and adds to `dweight` and `dbias [n]`.
///
/// # Panics
/// If `x` is not whole rows or the lengths do not agree.
pub fn layer_norm_gradient(
    cpu: &Cpu,
    input: NormInput<'_>,
    dy: &[f32],
    dx: &mut [f32],
    (dweight, dbias): (&mut [f32], &mut [f32]),
) {
    assert_eq!(dbias.len(), input.weight.len());
    gradient(cpu, Kind::Layer, input, dy, (dx, dweight, dbias));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rms,
    Layer,
}

/// `dx`, `dweight`, `dbias` (empty for RMS norm).
type Gradients<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [f32]);

fn gradient(cpu: &Cpu, kind: Kind, input: NormInput<'_>, dy: &[f32], to: Gradients<'_>) {
    let (dx, dweight, dbias) = to;
    let n = super::check(input.x, input.weight, dx);
    assert_eq!(dy.len(), dx.len());
    assert_eq!(dweight.len(), n);
    let chunk = (TASK_VALUES / n).max(TASK_ROWS) * n;
    // One row of sums a task: `[tasks, n]` of dweight and `[tasks, n or 0]` of dbias.
    let tasks = dx.len().div_ceil(chunk);
    let mut sums = vec![0.0; tasks * (n + dbias.len())];
    let (weights, biases) = sums.split_at_mut(tasks * n);
    let (width, weights, biases) = (dbias.len(), Disjoint::new(weights), Disjoint::new(biases));
    cpu.pool.run_chunks(dx, chunk, &|task, dx| {
        let part = task * chunk..task * chunk + dx.len();
        let input = NormInput { x: &input.x[part.clone()], ..input };
        // SAFETY: every task has sums of its own.
        let to = unsafe { (dx, weights.slice(task * n, n), biases.slice(task * width, width)) };
        rows(cpu.isa, kind, input, &dy[part], to);
    });
    let (weights, biases) = sums.split_at(tasks * n);
    for (to, sums) in [(dweight, weights), (dbias, biases)] {
        for sums in sums.chunks_exact(to.len().max(1)) {
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    }
}

per_isa! {
    fn rows<L>(l, kind: Kind, input: NormInput<'_>, dy: &[f32], to: Gradients<'_>) {
        let (w, n) = (input.weight, input.weight.len());
        let (dx, dw, db) = to;
        let rows = input.x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
        for ((x, dy), dx) in rows {
            let mean = if kind == Kind::Layer { total(l, x) / n as f32 } else { 0.0 };
            let s = l.splat(1.0 / (squares(l, x, mean) / n as f32 + input.eps).sqrt());
            let mean = l.splat(mean);
            let (mut g_sum, mut gh_sum) = (l.splat(0.0), l.splat(0.0));
            for i in (0..n).step_by(L::WIDTH) {
                // Behind the end dy is 0, so nothing is added there.
                let g = l.mul(l.load_start(&dy[i..]), l.load_start(&w[i..]));
                g_sum = l.add(g_sum, g);
                gh_sum = l.fma(g, normed(l, &x[i..], mean, s), gh_sum);
            }
            let g_mean = if kind == Kind::Layer { l.sum(g_sum) / n as f32 } else { 0.0 };
            let (g_mean, gh_mean) = (l.splat(g_mean), l.splat(l.sum(gh_sum) / n as f32));
            for i in (0..n).step_by(L::WIDTH) {
                let (dy, h) = (l.load_start(&dy[i..]), normed(l, &x[i..], mean, s));
                let g = l.mul(dy, l.load_start(&w[i..]));
                let d = l.sub(l.sub(g, g_mean), l.mul(h, gh_mean));
                l.store_start(&mut dx[i..], l.mul(s, d));
                let sum = l.fma(dy, h, l.load_start(&dw[i..]));
                l.store_start(&mut dw[i..], sum);
            }
            db.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
        }
    }
}

/// The first vector of `h = (x - mean) s`.
#[inline(always)]
fn normed<L: Lanes>(l: L, x: &[f32], mean: L::F, s: L::F) -> L::F {
    l.mul(l.sub(l.load_start(x), mean), s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;
    use crate::norm::scalar;

    /// Sums of up to 576 products below 1 and 70 rows, where the mean is up to six times the
    /// deviation: a few digits of 2^-24.
    const TOLERANCE: f64 = 4e-5;
    /// Differences over steps of 2^-6 of f64 values: the third derivative times 2^-12 / 6.
    const DIFFERENCE: f64 = 1e-3;

    fn near(a: &[f32], b: &[f64]) -> bool {
        a.len() == b.len()
            && a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < TOLERANCE * (1.0 + b.abs()))
    }

    fn case(m: usize, n: usize) -> [Vec<f32>; 3] {
        let x = noise(m * n, 1).iter().map(|v| v + 1.0).collect();
        [x, noise(n, 2), noise(m * n, 3)]
    }

    #[test]
    fn every_isa_agrees_with_the_references() {
        for (m, n) in [(0, 4), (1, 2), (2, 7), (3, 8), (2, 15), (15, 16), (17, 17), (3, 172), (70, 576)] {
            let [x, w, dy] = case(m, n);
            let input = NormInput { x: &x, weight: &w, eps: 1e-3 };
            let (rms, layer) =
                (scalar::rms_norm_gradient(input, &dy), scalar::layer_norm_gradient(input, &dy));
            for isa in Isa::available() {
                let cpu = Cpu::new(isa, 2);
                let (mut dx, mut dw, mut db) = (vec![9.0; m * n], vec![0.0; n], vec![0.0; n]);
                rms_norm_gradient(&cpu, input, &dy, &mut dx, &mut dw);
                assert!(near(&dx, &rms.0) && near(&dw, &rms.1), "{} {m} {n}", isa.name());
                dw.fill(0.0);
                layer_norm_gradient(&cpu, input, &dy, &mut dx, (&mut dw, &mut db));
                assert!(near(&dx, &layer.0) && near(&dw, &layer.1), "{} {m} {n}", isa.name());
                assert!(near(&db, &layer.2));
            }
        }
    }

    #[test]
    fn the_references_are_the_differences_of_the_norms() {
        let (m, n) = (2, 9);
        let [x, w, dy] = case(m, n);
        let b = noise(n, 4);
        let step = 1.0 / 64.0;
        type Norm = fn(&[f32], &[f32], &[f32], &mut [f32]);
        let norms: [Norm; 2] =
            [|x, w, _, y| scalar::rms_norm(x, w, 1e-3, y), |x, w, b, y| scalar::layer_norm(x, w, b, 1e-3, y)];
        let input = NormInput { x: &x, weight: &w, eps: 1e-3 };
        let rms = scalar::rms_norm_gradient(input, &dy);
        let exact = [(rms.0, rms.1, vec![0.0; n]), scalar::layer_norm_gradient(input, &dy)];
        for (norm, (dx, dw, db)) in norms.into_iter().zip(exact) {
            for (which, gradient) in [dx, dw, db].iter().enumerate() {
                for (i, exact) in gradient.iter().enumerate() {
                    let loss = |by: f32| -> f64 {
                        let mut at = [x.clone(), w.clone(), b.clone()];
                        at[which][i] += by;
                        let mut y = vec![0.0; m * n];
                        norm(&at[0], &at[1], &at[2], &mut y);
                        y.iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
                    };
                    let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                    assert!((slope - exact).abs() < DIFFERENCE, "{which} {i}: {slope} {exact}");
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let (m, n) = (100, 577);
        let [x, w, dy] = case(m, n);
        let input = NormInput { x: &x, weight: &w, eps: 1e-6 };
        for isa in Isa::available() {
            let run = |threads| {
                let (mut dx, mut dw, mut db) = (vec![0.0; m * n], vec![1.0; n], vec![2.0; n]);
                let cpu = Cpu::new(isa, threads);
                rms_norm_gradient(&cpu, input, &dy, &mut dx, &mut dw);
                layer_norm_gradient(&cpu, input, &dy, &mut dx, (&mut dw, &mut db));
                (dx, dw, db)
            };
            let one = run(1);
            assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
        }
    }
}
