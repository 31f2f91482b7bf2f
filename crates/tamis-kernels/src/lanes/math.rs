//! Exponential, logistic function, tanh and erfc over a vector of f32.
//! The same operations in the same order on every instruction set (up to the
//! fused multiply-add, which the portable vector rounds twice).

use super::Lanes;

/// Below this `exp` is 0: the result would be subnormal.
const EXP_LOW: f32 = -87.336_54;
/// Above this `exp` would overflow; it stays at `exp(88.02)`, `1.7e38`.
const EXP_HIGH: f32 = 88.02;

/// `e^x`, within 2 units in the last place, 0 below -87.3, NaN for NaN.
///
/// `x = n ln 2 + r`, `|r| <= ln 2 / 2`; `e^x = 2^n e^r`, and `e^r` by the polynomial of
/// Cephes `expf` (degree 5 after `1 + r`). `ln 2` comes in two parts so that `r` is exact.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::F) -> L::F {
    let low = l.splat(EXP_LOW);
    // The operand order lets a NaN through: `max` and `min` give their second operand.
    let clamped = l.max(low, l.min(l.splat(EXP_HIGH), x));
    let n = l.round(l.mul(clamped, l.splat(std::f32::consts::LOG2_E)));
    let r = l.fma(n, l.splat(-0.693_359_4), clamped);
    let r = l.fma(n, l.splat(2.121_944_4e-4), r);
    let mut p = l.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = l.fma(p, r, l.splat(c));
    }
    let p = l.fma(p, l.mul(r, r), l.add(r, l.splat(1.0)));
    l.select_lt(x, low, l.splat(0.0), l.mul(p, l.pow2(n)))
}

/// `2^f = 1 + f P(f)` for `0 <= f < 1`, within `2.9e-6`: the polynomial of degree 4 with
/// the least largest relative error among those that are 1 at 0. Highest power first.
pub(super) const EXP2: [f32; 4] = [0.013_426_684, 0.052_242_473, 0.241_280_2, 0.693_044_84];

/// See `Lanes::exp2`: `x = n + f`, `2^x = 2^n 2^f`.
#[inline(always)]
pub(super) fn exp2<L: Lanes>(l: L, x: L::F) -> L::F {
    let low = l.splat(-126.0);
    // The operand order lets a NaN through.
    let clamped = l.max(low, x);
    let n = l.round(l.sub(clamped, l.splat(0.5)));
    let f = l.sub(clamped, n);
    let mut p = l.splat(EXP2[0]);
    for c in &EXP2[1..] {
        p = l.fma(p, f, l.splat(*c));
    }
    let p = l.fma(p, f, l.splat(1.0));
    l.select_lt(x, low, l.splat(0.0), l.mul(p, l.pow2(n)))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<L: Lanes>(l: L, x: L::F) -> L::F {
    let one = l.splat(1.0);
    l.div(one, l.add(one, exp(l, l.sub(l.splat(0.0), x))))
}

/// `tanh x = 1 - 2 / (e^2x + 1)`: absolute error below `2e-7`.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(l: L, x: L::F) -> L::F {
    let one = l.splat(1.0);
    let e = exp(l, l.add(x, x));
    l.sub(one, l.div(l.splat(2.0), l.add(e, one)))
}

/// `erfc z` for `z >= 0`: relative error of the fit `1.2e-7`, plus `z^2` roundings.
///
/// `erfc z = t exp(-z^2 + P(t))`, `t = 1 / (1 + z / 2)` (Press et al., *Numerical
/// Recipes*, `erfcc`).
#[inline(always)]
pub(crate) fn erfc_positive<L: Lanes>(l: L, z: L::F) -> L::F {
    let t = l.div(l.splat(1.0), l.fma(z, l.splat(0.5), l.splat(1.0)));
    let mut p = l.splat(0.170_872_77);
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = l.fma(p, t, l.splat(c));
    }
    l.mul(t, exp(l, l.sub(p, l.mul(z, z))))
}
