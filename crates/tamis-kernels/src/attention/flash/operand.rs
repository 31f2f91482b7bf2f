//! What a product of flash attention multiplies: pairs of bf16, in hardware or widened to
//! f32, or f16 widened to f32. Knows no attention.
//!
//! Two rounded operands are right for bf16: queries and weights then lose as much as keys
//! and values have lost. f16 keeps three bits more, so there both stay f32.

use crate::aligned::Plain;
use crate::attention::blocks::{Code, PAIR_LINE};
use crate::isa::{Isa, Kernel};
use crate::lanes::Lanes;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::lanes::{Avx512, Avx512Bf16};

/// Products of two steps at a time: `sums += a[0] b[0] + a[1] b[1]`, lane by lane.
pub(super) trait Operand: Copy {
    /// The vectors of sums.
    type Sums: Lanes;
    /// A number of a query or of a weight.
    type Number: Plain;
    /// Two steps of `WIDTH` columns.
    type Vector: Copy;
    /// Rows of a register tile.
    const ROWS: usize;
    /// Vectors of sums in a row of the register tile.
    const VECTORS: usize;
    /// Numbers of one column side by side in a line.
    const INTERLEAVED: usize;

    fn sums(self) -> Self::Sums;
    /// Two steps from a line.
    /// # Safety
    /// `from` points at a line, or at a later vector of columns in its first step.
    unsafe fn load(self, from: *const u16) -> Self::Vector;
    /// The same two numbers in all columns.
    /// # Safety
    /// `from` points at two readable numbers.
    unsafe fn splat(self, from: *const Self::Number) -> Self::Vector;
    fn multiply_add(
        self,
        a: Self::Vector,
        b: Self::Vector,
        sums: <Self::Sums as Lanes>::F,
    ) -> <Self::Sums as Lanes>::F;
    /// Writes two vectors, rounded as a query or weight must be.
    /// # Safety
    /// `to` points at `2 * WIDTH` writable numbers.
    unsafe fn put(self, to: *mut Self::Number, values: [<Self::Sums as Lanes>::F; 2]);
    /// Codes as bf16, which holds them all; a multiple of 32 of them.
    #[inline(always)]
    fn widen(self, codes: &[i8], to: &mut [u16]) {
        for (to, code) in to.iter_mut().zip(codes) {
            *to = (f32::from(*code).to_bits() >> 16) as u16;
        }
    }
}

/// A kernel that is written once for any operand; `run` must be `#[inline(always)]`.
pub(super) trait OperandKernel {
    fn run<O: Operand>(self, operand: O);
}

/// Pairs of bf16, widened.
#[derive(Clone, Copy)]
struct Widened<L>(L);

/// f16, widened; queries and weights are f32.
#[derive(Clone, Copy)]
struct Halves<L>(L);

macro_rules! f32_products {
    ($name:ident, $interleaved:expr, |$l:ident, $from:ident| $load:expr, |$value:ident| $round:expr) => {
        impl<L: Lanes> Operand for $name<L> {
            type Sums = L;
            type Number = f32;
            type Vector = [L::F; 2];
            // 16 sums and 8 vectors of keys in 32 registers, or 8 and 4 in 16.
            const ROWS: usize = 4;
            const VECTORS: usize = if L::WIDTH == 16 { 4 } else { 2 };
            const INTERLEAVED: usize = $interleaved;

            #[inline(always)]
            fn sums(self) -> L {
                self.0
            }
            #[inline(always)]
            unsafe fn load(self, $from: *const u16) -> [L::F; 2] {
                let $l = self.0;
                // SAFETY: the caller's promise: both steps of the line are readable.
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn splat(self, from: *const f32) -> [L::F; 2] {
                // SAFETY: the caller's promise.
                unsafe { [self.0.splat(*from), self.0.splat(*from.add(1))] }
            }
            #[inline(always)]
            fn multiply_add(self, a: [L::F; 2], b: [L::F; 2], sums: L::F) -> L::F {
                self.0.fma(a[1], b[1], self.0.fma(a[0], b[0], sums))
            }
            #[inline(always)]
            unsafe fn put(self, to: *mut f32, values: [L::F; 2]) {
                let $l = self.0;
                for i in 0..2 {
                    let $value = values[i];
                    // SAFETY: the caller's promise.
                    unsafe { $l.store_ptr(to.add(i * L::WIDTH), $round) }
                }
            }
        }
    };
}

f32_products!(Widened, 2, |l, from| l.load_pairs(from), |value| l.round_bf16(value));
f32_products!(Halves, 1, |l, from| [l.load_halves(from), l.load_halves(from.add(PAIR_LINE / 2))], |value| {
    value
});

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod hardware {
    use std::arch::x86_64::*;

    use super::*;

    /// Pairs of bf16 (`vdpbf16ps`).
    #[derive(Clone, Copy)]
    pub(super) struct Pairs(pub(super) Avx512Bf16);

    #[inline(always)]
    fn as_bf16(v: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(v) }
    }

    impl Operand for Pairs {
        type Sums = Avx512;
        type Number = u16;
        type Vector = __m512bh;
        // 24 sums, 4 vectors of keys and 1 of queries in 32 registers.
        const ROWS: usize = 6;
        const VECTORS: usize = 4;
        const INTERLEAVED: usize = 2;

        #[inline(always)]
        fn sums(self) -> Avx512 {
            self.0.lanes()
        }
        #[inline(always)]
        unsafe fn load(self, from: *const u16) -> __m512bh {
            // SAFETY: the caller promises a line.
            as_bf16(unsafe { _mm512_loadu_si512(from.cast()) })
        }
        #[inline(always)]
        unsafe fn splat(self, from: *const u16) -> __m512bh {
            // SAFETY: the caller promises two numbers.
            as_bf16(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
        }
        #[inline(always)]
        fn multiply_add(self, a: __m512bh, b: __m512bh, sums: __m512) -> __m512 {
            // SAFETY: the token proves the instruction; no memory is touched.
            unsafe { _mm512_dpbf16_ps(sums, a, b) }
        }
        #[inline(always)]
        unsafe fn put(self, to: *mut u16, [low, high]: [__m512; 2]) {
            // SAFETY: the token proves the instructions; the caller promises 32 numbers.
            unsafe {
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.cast(), both);
            }
        }
        #[inline(always)]
        fn widen(self, codes: &[i8], to: &mut [u16]) {
            for (codes, to) in codes.chunks_exact(32).zip(to.chunks_exact_mut(32)) {
                // SAFETY: 32 codes and 32 numbers; the token proves the instructions.
                unsafe {
                    let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                    let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().add(16).cast()));
                    self.put(to.as_mut_ptr(), [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)]);
                }
            }
        }
    }
}

/// Runs a kernel with the products of a cache's type on that instruction set.
pub(super) fn run<K: OperandKernel>(isa: Isa, code: Code, kernel: K) {
    struct OnLanes<K>(K, Code);
    impl<K: OperandKernel> Kernel for OnLanes<K> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            match self.1 {
                Code::F16 => self.0.run(Halves(lanes)),
                // int8 becomes bf16, which holds every code exactly.
                Code::Bf16 | Code::Int8 => self.0.run(Widened(lanes)),
            }
        }
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if let (Code::Bf16 | Code::Int8, Some(token)) = (code, isa.bf16()) {
        // SAFETY: the token proves the features that the function enables.
        return unsafe { on_bf16(token, kernel) };
    }
    isa.run(OnLanes(kernel, code));
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn on_bf16<K: OperandKernel>(token: Avx512Bf16, kernel: K) {
    kernel.run(hardware::Pairs(token));
}
