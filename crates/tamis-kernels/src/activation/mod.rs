//! Activations, element by element and in place; the gated ones multiply by `up`:
//! SiLU `x / (1 + e^-x)`, GELU by tanh `x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))`
//! (`1 + tanh u = 2 sigmoid 2u`, which does not cancel), exact GELU
//! `x / 2 erfc(-x / sqrt 2)`, ReLU.
//!
//! Every element goes through the same vector operations wherever it stands, so
//! pieces and threads do not matter.

mod gradient;
pub mod scalar;

pub use gradient::{
    gelu_gradient, gelu_mul_gradient, gelu_tanh_gradient, gelu_tanh_mul_gradient, relu_gradient,
    silu_gradient, silu_mul_gradient,
};

use crate::isa::per_isa;
use crate::lanes::{Lanes, erfc_positive, sigmoid};
use crate::pool::Cpu;

/// Values in a task.
const TASK_VALUES: usize = 1 << 14;

/// `gate = silu(gate) * up`.
pub fn silu_mul(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    gated(cpu, Curve::Silu, gate, up);
}

/// `gate = gelu_tanh(gate) * up`.
pub fn gelu_tanh_mul(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    gated(cpu, Curve::GeluTanh, gate, up);
}

/// `gate = gelu(gate) * up`, exact GELU.
pub fn gelu_mul(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    gated(cpu, Curve::Gelu, gate, up);
}

/// `x = silu(x)`.
pub fn silu(cpu: &Cpu, x: &mut [f32]) {
    plain(cpu, Curve::Silu, x);
}

/// `x = gelu_tanh(x)`.
pub fn gelu_tanh(cpu: &Cpu, x: &mut [f32]) {
    plain(cpu, Curve::GeluTanh, x);
}

/// `x = gelu(x)`, exact.
pub fn gelu(cpu: &Cpu, x: &mut [f32]) {
    plain(cpu, Curve::Gelu, x);
}

/// `x = max(x, 0)`; NaN stays.
pub fn relu(cpu: &Cpu, x: &mut [f32]) {
    plain(cpu, Curve::Relu, x);
}

/// `a += b`.
pub fn add(cpu: &Cpu, a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    cpu.pool.run_chunks(a, TASK_VALUES, &|i, a| {
        let b = &b[i * TASK_VALUES..][..a.len()];
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    });
}

#[derive(Clone, Copy)]
enum Curve {
    Silu,
    GeluTanh,
    Gelu,
    Relu,
}

fn plain(cpu: &Cpu, curve: Curve, x: &mut [f32]) {
    cpu.pool.run_chunks(x, TASK_VALUES, &|_, x| map(cpu.isa, curve, x));
}

fn gated(cpu: &Cpu, curve: Curve, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    cpu.pool.run_chunks(gate, TASK_VALUES, &|i, gate| {
        map(cpu.isa, curve, gate);
        let up = &up[i * TASK_VALUES..][..gate.len()];
        gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
    });
}

per_isa! {
    fn map<L>(l, curve: Curve, x: &mut [f32]) {
        let mut whole = x.chunks_exact_mut(L::WIDTH);
        for x in whole.by_ref() {
            let y = apply(l, curve, l.load(x));
            l.store(x, y);
        }
        let rest = whole.into_remainder();
        let y = apply(l, curve, l.load_short(rest));
        l.store_short(rest, y);
    }
}

#[inline(always)]
fn apply<L: Lanes>(l: L, curve: Curve, x: L::F) -> L::F {
    match curve {
        Curve::Silu => l.mul(x, sigmoid(l, x)),
        Curve::GeluTanh => {
            // 2 sqrt(2 / pi) and that times 0.044715.
            let inner = l.fma(l.mul(x, x), l.splat(0.071_354_81), l.splat(1.595_769_2));
            l.mul(x, sigmoid(l, l.mul(x, inner)))
        }
        Curve::Gelu => {
            let zero = l.splat(0.0);
            let z = l.mul(l.max(l.sub(zero, x), x), l.splat(std::f32::consts::FRAC_1_SQRT_2));
            let tail = erfc_positive(l, z);
            let share = l.select_lt(x, zero, tail, l.sub(l.splat(2.0), tail));
            l.mul(l.mul(x, l.splat(0.5)), share)
        }
        Curve::Relu => l.max(l.splat(0.0), x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    /// A few roundings of the result and of its exponent.
    const RELATIVE: f64 = 2e-6;
    /// What the tails may lose: erfc carries `z^2` roundings.
    const ABSOLUTE: f64 = 1e-7;

    #[test]
    fn every_isa_agrees_with_the_reference() {
        type Op = (fn(&Cpu, &mut [f32]), fn(f32) -> f64);
        let ops: [Op; 4] = [
            (silu, scalar::silu),
            (gelu_tanh, scalar::gelu_tanh),
            (gelu, scalar::gelu),
            (relu, |x| f64::from(x.max(0.0))),
        ];
        for len in [0, 1, 7, 8, 9, 15, 16, 17, 40_000] {
            let x: Vec<f32> = noise(len, 1).iter().map(|v| v * 24.0).collect();
            for isa in Isa::available() {
                for (op, reference) in ops {
                    let mut y = x.clone();
                    op(&Cpu::new(isa, 2), &mut y);
                    for (x, y) in x.iter().zip(&y) {
                        let (exact, y) = (reference(*x), f64::from(*y));
                        let near = (y - exact).abs() <= ABSOLUTE + RELATIVE * exact.abs();
                        assert!(near, "{} f({x}) = {y}, not {exact}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn gates_multiply_and_nan_and_infinity_pass() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1);
            let mut gate = [f32::NAN, f32::INFINITY, -200.0, 1.0];
            silu_mul(&cpu, &mut gate, &[1.0, 2.0, 1.0, 3.0]);
            assert!(gate[0].is_nan() && gate[1] == f32::INFINITY);
            assert!(gate[2].abs() < 1e-30 && (gate[3] - 3.0 * 0.731_058_6).abs() < 1e-6);
            let mut x = [f32::NAN, -1.0, 2.0];
            relu(&cpu, &mut x);
            assert!(x[0].is_nan() && x[1..] == [0.0, 2.0]);
            let mut a = [1.0, 2.0];
            add(&cpu, &mut a, &[3.0, 4.0]);
            assert_eq!(a, [4.0, 6.0]);
        }
    }
}
