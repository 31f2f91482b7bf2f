//! One step of AdamW (arXiv 1711.05101), in the order of operations of `torch.optim.AdamW`,
//! and the sum of squares by which gradients are clipped. Knows no schedule and no tensor.
//!
//! `p -= lr wd p`; `m += (1 - b1) (g - m)`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / c1 * m / (sqrt v / sqrt c2 + eps)`, with `c1 = 1 - b1^t`, `c2 = 1 - b2^t`.
//!
//! Plain multiplications and square roots, element by element: every instruction set gives
//! the same bits, so the loops are left to the compiler.

pub mod scalar;

use crate::isa::per_isa;
use crate::pool::{Cpu, Disjoint};

/// Values in a task.
const TASK_VALUES: usize = 1 << 14;
/// Sums that run side by side.
const SUMS: usize = 16;

/// The numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the mean gradient.
    pub beta1: f32,
    /// Decay of the mean square.
    pub beta2: f32,
    /// What is added to the root of the mean square.
    pub eps: f32,
    /// Decoupled decay; it is multiplied by `lr`.
    pub weight_decay: f32,
    /// Factor on the gradients, 1 unless they are clipped.
    pub gradient_scale: f32,
    /// Number of this step, from 1 on: it makes the bias corrections.
    pub step: u32,
}

/// The factors of a step, made once.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    beta2: f32,
    size: f32,
    root: f32,
    eps: f32,
    gradient_scale: f32,
}

impl AdamStep {
    fn factors(&self) -> Factors {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(self.step));
        Factors {
            keep: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            size: (f64::from(self.lr) / correction(self.beta1)) as f32,
            root: correction(self.beta2).sqrt() as f32,
            eps: self.eps,
            gradient_scale: self.gradient_scale,
        }
    }
}

/// One step: changes `params`, the mean gradients `m` and the mean squares `v`.
///
/// # Panics
/// If the lengths differ or the step is 0.
pub fn adam_step(
    cpu: &Cpu,
    params: &mut [f32],
    grads: &[f32],
    (m, v): (&mut [f32], &mut [f32]),
    step: &AdamStep,
) {
    let len = params.len();
    assert!(grads.len() == len && m.len() == len && v.len() == len, "slices of a step differ in length");
    assert!(step.step > 0, "the first step is 1");
    let factors = step.factors();
    let (m, v) = (Disjoint::new(m), Disjoint::new(v));
    cpu.pool.run_chunks(params, TASK_VALUES, &|task, p| {
        let (start, len) = (task * TASK_VALUES, p.len());
        // SAFETY: pieces do not overlap, and one task has a piece.
        let moments = unsafe { (m.slice(start, len), v.slice(start, len)) };
        piece(cpu.isa, p, &grads[start..][..len], moments, factors);
    });
}

per_isa! {
    fn piece<L>(_l, p: &mut [f32], g: &[f32], moments: (&mut [f32], &mut [f32]), f: Factors) {
        let (m, v) = moments;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * f.gradient_scale;
            *m += (1.0 - f.beta1) * (g - *m);
            *v = f.beta2 * *v + (1.0 - f.beta2) * g * g;
            *p = *p * f.keep - f.size * (*m / (v.sqrt() / f.root + f.eps));
        }
    }
}

/// `sum x^2` in f64: element `i` goes to sum `i % 16` of its task, these are added in order,
/// and so are the tasks.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut parts = vec![0.0; x.len().div_ceil(TASK_VALUES)];
    cpu.pool.run_chunks(&mut parts, 1, &|task, part| {
        let start = task * TASK_VALUES;
        part[0] = squares(cpu.isa, &x[start..(start + TASK_VALUES).min(x.len())]);
    });
    parts.iter().sum()
}

per_isa! {
    fn squares<L>(_l, x: &[f32]) -> f64 {
        let mut sums = [0.0f64; SUMS];
        let whole = x.chunks_exact(SUMS);
        let rest = whole.remainder();
        for x in whole {
            for i in 0..SUMS {
                sums[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    /// Three steps of values below 1, a few roundings each.
    const TOLERANCE: f64 = 1e-6;
    /// The reference adds 100 000 numbers one by one: 2^-53 of each partial sum.
    const RELATIVE: f64 = 1e-11;

    fn step(step: u32) -> AdamStep {
        AdamStep {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 0.5,
            step,
        }
    }

    #[test]
    fn every_isa_and_number_of_threads_gives_the_same_bits_near_the_reference() {
        for len in [0, 1, 7, 8, 9, 15, 16, 17, 16_385, 40_000] {
            let start = noise(len, 1);
            let mut exact: [Vec<f64>; 3] =
                [start.iter().map(|&p| f64::from(p)).collect(), vec![0.0; len], vec![0.0; len]];
            (1..4).for_each(|t| scalar::adam_step(&mut exact, &noise(len, 10 + t), &step(t)));
            let run = |isa, threads| {
                let (mut p, mut m, mut v) = (start.clone(), vec![0.0; len], vec![0.0; len]);
                let cpu = Cpu::new(isa, threads);
                (1..4).for_each(|t| adam_step(&cpu, &mut p, &noise(len, 10 + t), (&mut m, &mut v), &step(t)));
                [p, m, v]
            };
            let first = run(Isa::SCALAR, 1);
            for (a, b) in first.iter().flatten().zip(exact.iter().flatten()) {
                assert!((f64::from(*a) - b).abs() < TOLERANCE, "{a} {b}");
            }
            for isa in Isa::available() {
                assert!([1, 2, 3].into_iter().all(|threads| run(isa, threads) == first), "{}", isa.name());
            }
        }
    }

    /// After one step without decay every parameter has moved by the learning rate, whatever its
    /// gradient: the mean and the root of the mean square are the gradient's own.
    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradient() {
        let (mut p, mut m, mut v) = ([1.0; 3], [0.0; 3], [0.0; 3]);
        let step = AdamStep { weight_decay: 0.0, ..step(1) };
        adam_step(&Cpu::new(Isa::SCALAR, 1), &mut p, &[1e-3, -5.0, 0.0], (&mut m, &mut v), &step);
        assert!((p[0] - 0.99).abs() < 1e-6 && (p[1] - 1.01).abs() < 1e-6 && p[2] == 1.0, "{p:?}");
    }

    #[test]
    fn sums_of_squares_have_the_same_bits_everywhere() {
        for len in [0, 1, 15, 16, 17, 16_384, 100_000] {
            let x = noise(len, 2);
            let exact = scalar::sum_of_squares(&x);
            let first = sum_of_squares(&Cpu::new(Isa::SCALAR, 1), &x);
            assert!((first - exact).abs() <= RELATIVE * exact);
            for isa in Isa::available() {
                for threads in [1, 2, 5] {
                    assert_eq!(sum_of_squares(&Cpu::new(isa, threads), &x).to_bits(), first.to_bits());
                }
            }
        }
    }
}
