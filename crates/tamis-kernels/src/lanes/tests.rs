//! The vector functions against f64, on every instruction set.

use super::*;
use crate::isa::{Isa, per_isa};

per_isa! {
    fn map<L>(lanes, x: &[f32], which: u8, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(L::WIDTH).zip(out.chunks_exact_mut(L::WIDTH)) {
            let v = lanes.load(x);
            let y = match which {
                0 => exp(lanes, v),
                1 => tanh(lanes, v),
                2 => erfc_positive(lanes, v),
                3 => lanes.round_bf16(v),
                5 => lanes.exp2(v),
                _ => sigmoid(lanes, v),
            };
            lanes.store(out, y);
        }
    }
}

/// The numbers as bf16, of pairs put back in order, and as f16.
fn widened(isa: Isa, bits: &[u16]) -> (Vec<f32>, Vec<f32>) {
    per_isa! {
        fn widen<L>(l, bits: &[u16], pairs: &mut [f32], halves: &mut [f32]) {
            let w = L::WIDTH;
            let mut row = [[0.0; 16]; 2];
            for i in (0..bits.len()).step_by(2 * w) {
                let from = bits[i..i + 2 * w].as_ptr();
                // SAFETY: `from` points at two vectors of values.
                let [even, odd] = unsafe { l.load_pairs(from) };
                l.store(&mut row[0], even);
                l.store(&mut row[1], odd);
                for j in 0..2 * w {
                    pairs[i + j] = row[j % 2][j / 2];
                }
                // SAFETY: as above.
                let both = unsafe { [l.load_halves(from), l.load_halves(from.add(w))] };
                l.store(&mut halves[i..], both[0]);
                l.store(&mut halves[i + w..], both[1]);
            }
        }
    }
    let (mut pairs, mut halves) = (vec![0.0; bits.len()], vec![0.0; bits.len()]);
    widen(isa, bits, &mut pairs, &mut halves);
    (pairs, halves)
}

fn apply(isa: Isa, which: u8, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    map(isa, x, which, &mut out);
    out
}

fn grid(low: f32, high: f32) -> Vec<f32> {
    (0..1 << 16).map(|i| low + (high - low) * (i as f32 / 65535.0)).collect()
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    for isa in Isa::available() {
        for x in [grid(-87.0, 88.0), grid(-1.0, 1.0)] {
            for (x, y) in x.iter().zip(apply(isa, 0, &x)) {
                let exact = f64::from(*x).exp();
                let unit = f64::from((exact as f32).next_up() - exact as f32);
                assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "{} exp({x}) = {y}", isa.name());
            }
        }
    }
}

#[test]
fn exp_at_the_edges() {
    for isa in Isa::available() {
        let mut x = [0.0f32; 16];
        x[..5].copy_from_slice(&[f32::NEG_INFINITY, -1000.0, 0.0, f32::NAN, 1000.0]);
        let y = apply(isa, 0, &x);
        assert_eq!(y[..3], [0.0, 0.0, 1.0]);
        assert!(y[3].is_nan() && y[4] > 1e38);
    }
}

#[test]
fn exp2_is_far_closer_than_a_bf16_can_show() {
    // The fit's 2.9e-6 and some roundings to f32; a bf16 is rounded by 4e-3.
    const TOLERANCE: f64 = 2.9e-6 + 4.0 * f32::EPSILON as f64;
    for isa in Isa::available() {
        for x in [grid(-126.0, 0.0), grid(-1.5, 1.0)] {
            for (x, y) in x.iter().zip(apply(isa, 5, &x)) {
                let error = f64::from(y) / f64::from(*x).exp2() - 1.0;
                assert!(error.abs() <= TOLERANCE, "{} 2^{x} = {y}: {error:e}", isa.name());
            }
        }
        let mut x = [0.0f32; 16];
        x[..4].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -0.0, f32::NAN]);
        let y = apply(isa, 5, &x);
        assert_eq!(y[..3], [0.0, 0.0, 1.0]);
        assert!(y[3].is_nan() && y[4..].iter().all(|&y| y == 1.0));
    }
}

#[test]
fn narrow_numbers_widen_everywhere() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    for isa in Isa::available() {
        let (pairs, halves) = widened(isa, &bits);
        for (i, bits) in bits.iter().enumerate() {
            let (bf16, f16) = (half::bf16::from_bits(*bits).to_f32(), half::f16::from_bits(*bits).to_f32());
            assert!(pairs[i].to_bits() == bf16.to_bits() || bf16.is_nan() && pairs[i].is_nan());
            assert!(halves[i].to_bits() == f16.to_bits() || f16.is_nan() && halves[i].is_nan());
        }
    }
}

#[test]
fn tanh_and_sigmoid_are_close() {
    for isa in Isa::available() {
        let x = grid(-20.0, 20.0);
        for (x, y) in x.iter().zip(apply(isa, 1, &x)) {
            assert!((f64::from(y) - f64::from(*x).tanh()).abs() < 2e-7, "tanh({x}) = {y}");
        }
        for (x, y) in x.iter().zip(apply(isa, 4, &x)) {
            let exact = 1.0 / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(y) / exact - 1.0).abs() < 5e-7, "sigmoid({x}) = {y}");
        }
    }
}

#[test]
fn erfc_matches_known_values() {
    // Values of erfc at 0, 0.5, 1, 2, 3 (Abramowitz and Stegun, table 7.1).
    let known = [1.0, 0.479_500_122_2, 0.157_299_207_1, 4.677_734_981e-3, 2.209_049_7e-5];
    let mut x = [0.0f32; 16];
    x[..5].copy_from_slice(&[0.0, 0.5, 1.0, 2.0, 3.0]);
    for isa in Isa::available() {
        for (y, exact) in apply(isa, 2, &x).iter().zip(known) {
            assert!((f64::from(*y) / exact - 1.0).abs() < 2e-6, "{y} {exact}");
        }
    }
}

#[test]
fn bf16_rounding_is_to_nearest_even_everywhere() {
    let bits = (0..1u32 << 16).map(|i| i.wrapping_mul(0x9E37_79B9) ^ (i << 3));
    let x: Vec<f32> = bits.map(f32::from_bits).filter(|x| !x.is_nan()).collect();
    let x = &x[..x.len() / 16 * 16];
    for isa in Isa::available() {
        for (x, y) in x.iter().zip(apply(isa, 3, x)) {
            assert_eq!(y.to_bits(), half::bf16::from_f32(*x).to_f32().to_bits(), "{x:e}");
        }
    }
}
