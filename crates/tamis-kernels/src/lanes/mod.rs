//! A vector of f32 as the kernels see it: one trait, three widths. A kernel is
//! written once over `Lanes` and compiled for each instruction set.
//!
//! Knows no op. The trick: a token (`Avx2`, `Avx512`) exists only where the CPU has
//! those instructions, so its methods are safe to call; every method is inlined
//! into a function that enables the features (`Isa::run`), so nothing is called.

mod math;
mod portable;

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use avx2::Avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use avx512::{Avx512, Avx512Bf16, Avx512Vbmi2};
pub(crate) use math::{erfc_positive, exp, sigmoid, tanh};
pub(crate) use portable::Portable;

/// A vector of `WIDTH` f32 and the operations that the kernels need.
///
/// Reductions have one fixed tree per width: halves are added until one lane is left.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// The vector.
    type F: Copy;
    /// f32 in a vector.
    const WIDTH: usize;
    /// Rows of x and rows of W in one register tile of the matrix product.
    const TILE: (usize, usize);

    fn splat(self, value: f32) -> Self::F;
    /// # Safety
    /// `from` points at `WIDTH` readable values.
    unsafe fn load_ptr(self, from: *const f32) -> Self::F;
    /// The first `count < WIDTH` values, zeros behind them.
    /// # Safety
    /// `from` points at `count` readable values.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F;
    /// # Safety
    /// `to` points at `WIDTH` writable values.
    unsafe fn store_ptr(self, to: *mut f32, value: Self::F);
    /// # Safety
    /// `from` points at `WIDTH` readable values.
    unsafe fn load_f16(self, from: *const half::f16) -> Self::F;
    /// The first (`ODD` false) or second bf16 of `WIDTH` pairs.
    /// # Safety
    /// `from` points at `2 * WIDTH` readable values.
    unsafe fn load_bf16_of_pairs<const ODD: bool>(self, from: *const u16) -> Self::F;
    /// Signed integers of `bits`, `place` of them in, from `WIDTH` words of 32 bits.
    /// # Safety
    /// `from` points at `WIDTH` readable words.
    unsafe fn load_integers(self, from: *const u32, bits: u32, place: u32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: the second operand where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: the second operand where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? yes : no`, lane by lane.
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// Nearest integer, ties to even, for `|a| < 2^22`.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for integral `n` in `-126..=127`.
    fn pow2(self, n: Self::F) -> Self::F;
    /// Rounds to the nearest bf16 (ties to even), still stored as f32.
    fn round_bf16(self, a: Self::F) -> Self::F;
    /// `WIDTH` pairs of bf16: the first of each, and the second of each.
    /// # Safety
    /// `from` points at `2 * WIDTH` readable values.
    unsafe fn load_pairs(self, from: *const u16) -> [Self::F; 2];
    /// `WIDTH` f16.
    /// # Safety
    /// `from` points at `WIDTH` readable values.
    unsafe fn load_halves(self, from: *const u16) -> Self::F;
    /// The sums of four vectors, each by the fixed tree.
    fn sum4(self, v: [Self::F; 4]) -> [f32; 4];

    /// `2^x` for `x <= 127`, within 2^-18, 0 below -126, 1 at 0, NaN for NaN.
    #[inline(always)]
    fn exp2(self, x: Self::F) -> Self::F {
        math::exp2(self, x)
    }
    /// The sum of one vector by the same tree.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let zero = self.splat(0.0);
        self.sum4([v, zero, zero, zero])[0]
    }
    /// The largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::F) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        self.store(&mut lanes, v);
        lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F {
        assert!(from.len() >= Self::WIDTH);
        // SAFETY: the length was just checked.
        unsafe { self.load_ptr(from.as_ptr()) }
    }
    /// A short slice (`< WIDTH`), zeros behind it.
    #[inline(always)]
    fn load_short(self, from: &[f32]) -> Self::F {
        assert!(from.len() < Self::WIDTH);
        // SAFETY: `count` is the slice's own length.
        unsafe { self.load_first(from.as_ptr(), from.len()) }
    }
    /// The start of a slice of any length, zeros behind it.
    #[inline(always)]
    fn load_start(self, from: &[f32]) -> Self::F {
        if from.len() >= Self::WIDTH { self.load(from) } else { self.load_short(from) }
    }
    /// As many lanes as a slice of any length has room for.
    #[inline(always)]
    fn store_start(self, to: &mut [f32], value: Self::F) {
        if to.len() >= Self::WIDTH { self.store(to, value) } else { self.store_short(to, value) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], value: Self::F) {
        assert!(to.len() >= Self::WIDTH);
        // SAFETY: the length was just checked.
        unsafe { self.store_ptr(to.as_mut_ptr(), value) }
    }
    /// As many lanes as the slice has room for.
    #[inline(always)]
    fn store_short(self, to: &mut [f32], value: Self::F) {
        let mut lanes = [0.0f32; 16];
        self.store(&mut lanes, value);
        to.copy_from_slice(&lanes[..to.len()]);
    }
}

#[cfg(test)]
mod tests;
