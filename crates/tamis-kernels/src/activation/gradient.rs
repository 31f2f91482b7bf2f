//! The gradients of the activations, in place. Plain: `dy = dy f'(x)`. Gated, for
//! `y = f(gate) up`: `gate = dy up f'(gate)` and `up = dy f(gate)`.
//!
//! With `s = 1 / (1 + e^-u)` and `1 - s = e^-u s`, which does not cancel: SiLU (`u = x`) and GELU
//! by tanh have `f = x s`, `f' = s + x s (1 - s) u'`. Exact GELU `x F(x)` has `f' = F(x) + x
//! e^(-x^2 / 2) / sqrt(2 pi)`.

use super::{Curve, TASK_VALUES};
use crate::isa::per_isa;
use crate::lanes::{Lanes, erfc_positive, exp};
use crate::pool::{Cpu, Disjoint};

/// The gradient of `silu_mul`: `gate` and `up` become their gradients.
///
/// # Panics
/// If the lengths differ, here and below.
pub fn silu_mul_gradient(cpu: &Cpu, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    gated(cpu, Curve::Silu, gate, up, dy);
}

/// The gradient of `gelu_tanh_mul`: `gate` and `up` become their gradients.
pub fn gelu_tanh_mul_gradient(cpu: &Cpu, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    gated(cpu, Curve::GeluTanh, gate, up, dy);
}

/// The gradient of `gelu_mul`: `gate` and `up` become their gradients.
pub fn gelu_mul_gradient(cpu: &Cpu, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    gated(cpu, Curve::Gelu, gate, up, dy);
}

/// The gradient of `silu` at `x`: `dy` becomes that of x.
pub fn silu_gradient(cpu: &Cpu, x: &[f32], dy: &mut [f32]) {
    plain(cpu, Curve::Silu, x, dy);
}

/// The gradient of `gelu_tanh` at `x`: `dy` becomes that of x.
pub fn gelu_tanh_gradient(cpu: &Cpu, x: &[f32], dy: &mut [f32]) {
    plain(cpu, Curve::GeluTanh, x, dy);
}

/// The gradient of `gelu` at `x`: `dy` becomes that of x.
pub fn gelu_gradient(cpu: &Cpu, x: &[f32], dy: &mut [f32]) {
    plain(cpu, Curve::Gelu, x, dy);
}

/// The gradient of `relu` at `x`: `dy` becomes that of x; it is 0 at 0.
pub fn relu_gradient(cpu: &Cpu, x: &[f32], dy: &mut [f32]) {
    plain(cpu, Curve::Relu, x, dy);
}

fn plain(cpu: &Cpu, curve: Curve, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len());
    cpu.pool.run_chunks(dy, TASK_VALUES, &|i, dy| {
        plain_piece(cpu.isa, curve, &x[i * TASK_VALUES..][..dy.len()], dy);
    });
}

fn gated(cpu: &Cpu, curve: Curve, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    assert!(gate.len() == dy.len() && up.len() == dy.len(), "gate, up and dy differ in length");
    let up = Disjoint::new(up);
    cpu.pool.run_chunks(gate, TASK_VALUES, &|i, gate| {
        let start = i * TASK_VALUES;
        // SAFETY: pieces do not overlap, and one task has a piece.
        let up = unsafe { up.slice(start, gate.len()) };
        gated_piece(cpu.isa, curve, gate, up, &dy[start..][..gate.len()]);
    });
}

per_isa! {
    fn plain_piece<L>(l, curve: Curve, x: &[f32], dy: &mut [f32]) {
        for (x, dy) in x.chunks(L::WIDTH).zip(dy.chunks_mut(L::WIDTH)) {
            let (_, slope) = with_slope(l, curve, l.load_start(x));
            let dx = l.mul(l.load_start(dy), slope);
            l.store_start(dy, dx);
        }
    }
}

per_isa! {
    fn gated_piece<L>(l, curve: Curve, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        let places = gate.chunks_mut(L::WIDTH).zip(up.chunks_mut(L::WIDTH));
        for ((gate, up), dy) in places.zip(dy.chunks(L::WIDTH)) {
            let (value, slope) = with_slope(l, curve, l.load_start(gate));
            let dy = l.load_start(dy);
            let through = l.mul(l.mul(dy, l.load_start(up)), slope);
            l.store_start(gate, through);
            l.store_start(up, l.mul(dy, value));
        }
    }
}

/// `x s` and its slope, for `s` of `u`, by `u` and `u'`.
#[inline(always)]
fn swish<L: Lanes>(l: L, x: L::F, u: L::F, u_slope: L::F) -> (L::F, L::F) {
    let (zero, one) = (l.splat(0.0), l.splat(1.0));
    let e = exp(l, l.sub(zero, u));
    let s = l.div(one, l.add(one, e));
    let value = l.mul(x, s);
    (value, l.fma(l.mul(value, l.mul(e, s)), u_slope, s))
}

/// `f(x)` and `f'(x)`.
#[inline(always)]
fn with_slope<L: Lanes>(l: L, curve: Curve, x: L::F) -> (L::F, L::F) {
    let (zero, one) = (l.splat(0.0), l.splat(1.0));
    match curve {
        Curve::Silu => swish(l, x, x, one),
        Curve::GeluTanh => {
            // u = a x + b x^3: 2 sqrt(2 / pi), that times 0.044715, and three times b.
            let (square, a) = (l.mul(x, x), l.splat(1.595_769_2));
            let inner = l.fma(square, l.splat(0.071_354_81), a);
            swish(l, x, l.mul(x, inner), l.fma(square, l.splat(0.214_064_43), a))
        }
        Curve::Gelu => {
            let z = l.mul(l.max(l.sub(zero, x), x), l.splat(std::f32::consts::FRAC_1_SQRT_2));
            let tail = erfc_positive(l, z);
            let share = l.select_lt(x, zero, tail, l.sub(l.splat(2.0), tail));
            let share = l.mul(share, l.splat(0.5));
            // 1 / sqrt(2 pi).
            let density = l.mul(exp(l, l.sub(zero, l.mul(z, z))), l.splat(0.398_942_3));
            (l.mul(x, share), l.fma(x, density, share))
        }
        Curve::Relu => (l.max(zero, x), l.select_lt(zero, x, one, zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::scalar;
    use crate::isa::Isa;
    use crate::linear::noise;

    /// A few roundings of the result and of its exponent; slopes are near 1.
    const TOLERANCE: f64 = 4e-6;
    /// Differences over steps of 2^-10 of f64 values: the third derivative, below 3, times
    /// 2^-20 / 6.
    const DIFFERENCE: f64 = 1e-6;

    type Op = (fn(&Cpu, &[f32], &mut [f32]), fn(f32) -> f64, fn(f32) -> f64);
    const OPS: [Op; 4] = [
        (silu_gradient, scalar::silu, scalar::silu_slope),
        (gelu_tanh_gradient, scalar::gelu_tanh, scalar::gelu_tanh_slope),
        (gelu_gradient, scalar::gelu, scalar::gelu_slope),
        (relu_gradient, |x| f64::from(x.max(0.0)), scalar::relu_slope),
    ];

    #[test]
    fn every_isa_agrees_with_the_references() {
        for len in [0, 1, 7, 8, 9, 15, 16, 17, 40_000] {
            let x: Vec<f32> = noise(len, 1).iter().map(|v| v * 24.0).collect();
            let dy = noise(len, 2);
            for (isa, (op, _, slope)) in Isa::available().into_iter().flat_map(|isa| OPS.map(|op| (isa, op)))
            {
                let mut dx = dy.clone();
                op(&Cpu::new(isa, 2), &x, &mut dx);
                for ((x, dy), dx) in x.iter().zip(&dy).zip(&dx) {
                    let (exact, dx) = (slope(*x) * f64::from(*dy), f64::from(*dx));
                    assert!((dx - exact).abs() <= TOLERANCE, "{} at {x}: {dx}, not {exact}", isa.name());
                }
            }
        }
    }

    #[test]
    fn the_references_are_the_differences_of_the_curves() {
        let step = 1.0 / 1024.0;
        for (_, curve, slope) in OPS {
            // Halves of 1 / 64: the steps are exact, and ReLU's corner is not among them.
            for i in -640..640 {
                let x = (i as f32 + 0.5) / 64.0;
                let difference = (curve(x + step) - curve(x - step)) / (2.0 * f64::from(step));
                assert!((difference - slope(x)).abs() < DIFFERENCE, "{x}: {difference} {}", slope(x));
            }
        }
    }

    #[test]
    fn gates_and_what_they_multiply_both_get_their_share() {
        type Gated = (fn(&Cpu, &mut [f32], &mut [f32], &[f32]), fn(f32) -> f64, fn(f32) -> f64);
        let ops: [Gated; 3] = [
            (silu_mul_gradient, scalar::silu, scalar::silu_slope),
            (gelu_tanh_mul_gradient, scalar::gelu_tanh, scalar::gelu_tanh_slope),
            (gelu_mul_gradient, scalar::gelu, scalar::gelu_slope),
        ];
        for len in [0, 1, 15, 17, 16_385] {
            let gate: Vec<f32> = noise(len, 1).iter().map(|v| v * 12.0).collect();
            let (up, dy) = (noise(len, 2), noise(len, 3));
            for (isa, (op, curve, slope)) in
                Isa::available().into_iter().flat_map(|isa| ops.map(|op| (isa, op)))
            {
                let (mut dgate, mut dup) = (gate.clone(), up.clone());
                op(&Cpu::new(isa, 2), &mut dgate, &mut dup, &dy);
                for i in 0..len {
                    let (up, dy) = (f64::from(up[i]), f64::from(dy[i]));
                    assert!((f64::from(dgate[i]) - dy * up * slope(gate[i])).abs() <= TOLERANCE);
                    assert!((f64::from(dup[i]) - dy * curve(gate[i])).abs() <= TOLERANCE);
                }
            }
        }
    }

    #[test]
    fn far_from_zero_slopes_are_0_and_1() {
        for isa in Isa::available() {
            for (op, _, _) in OPS {
                let mut dy = [1.0; 4];
                op(&Cpu::new(isa, 1), &[-1e6, -200.0, 200.0, 1e6], &mut dy);
                assert!(dy[..2].iter().all(|v| v.abs() < 1e-20) && dy[2..] == [1.0, 1.0], "{dy:?}");
            }
        }
    }
}
