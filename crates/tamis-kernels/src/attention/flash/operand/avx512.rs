//! Pairs in hardware: of bf16 (`vdpbf16ps`), and of int16 (`vpdpwssd`), to which codes are widened
//! while they are loaded.

use std::arch::x86_64::*;

use super::{Operand, OperandKernel};
use crate::aligned::Aligned;
use crate::attention::blocks::Piece;
use crate::lanes::{Avx512, Avx512Bf16};

/// The widest head whose products with codes no sum of 32 bits can overflow: `512 * 32767 * 127 < 2^31`.
pub(super) const WIDEST: usize = 512;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn on_bf16<K: OperandKernel>(token: Avx512Bf16, kernel: K) {
    kernel.run(Pairs(token));
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn on_integers<K: OperandKernel>(token: Avx512, kernel: K) {
    kernel.run(Integers(token));
}

/// Pairs of bf16.
#[derive(Clone, Copy)]
struct Pairs(Avx512Bf16);

/// Pairs of int16; made only where there is VNNI.
#[derive(Clone, Copy)]
struct Integers(Avx512);

impl Operand for Pairs {
    type Sums = Avx512;
    type Sum = __m512;
    type Number = u16;
    type Stored = u16;
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
    fn lines<'a>(self, piece: Piece<'a>, _room: &'a mut Aligned) -> (&'a [u16], Option<&'a [f32]>) {
        match piece {
            Piece::Halves(lines) => (lines, None),
            Piece::Bytes(..) => unreachable!("codes are multiplied as integers"),
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const u16) -> __m512bh {
        // SAFETY: the caller promises a line.
        unsafe { self.0.load(from) }
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const u16) -> __m512bh {
        // SAFETY: the caller promises two numbers.
        unsafe { self.0.broadcast(from) }
    }
    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    fn multiply_add(self, a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
        self.0.multiply_add(a, b, sum)
    }
    #[inline(always)]
    fn float(self, sum: __m512) -> __m512 {
        sum
    }
    #[inline(always)]
    unsafe fn put(self, to: *mut u16, [low, high]: [__m512; 2]) {
        // SAFETY: the token proves the instructions; the caller promises 32 numbers.
        unsafe {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.cast(), both);
        }
    }
}

impl Operand for Integers {
    type Sums = Avx512;
    type Sum = __m512i;
    type Number = i16;
    type Stored = i8;
    type Vector = __m512i;
    const ROWS: usize = 6;
    const VECTORS: usize = 4;
    const INTERLEAVED: usize = 2;
    const WHOLE: Option<f32> = Some(32767.0);

    #[inline(always)]
    fn sums(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn lines<'a>(self, piece: Piece<'a>, _room: &'a mut Aligned) -> (&'a [i8], Option<&'a [f32]>) {
        match piece {
            Piece::Bytes(codes, scales) => (codes, Some(scales)),
            Piece::Halves(_) => unreachable!("16-bit numbers are no integers"),
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const i8) -> __m512i {
        // SAFETY: the caller promises a line, which is 32 codes.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const i16) -> __m512i {
        // SAFETY: the caller promises two numbers.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn multiply_add(self, a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
        // SAFETY: such an operand is made only where there is VNNI; no memory is touched.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }
    #[inline(always)]
    fn float(self, sum: __m512i) -> __m512 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn put(self, to: *mut i16, values: [__m512; 2]) {
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: the token proves the instructions; the caller promises 32 numbers.
            unsafe {
                let whole = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(value));
                _mm256_storeu_si256(to.add(16 * i).cast(), whole);
            }
        }
    }
}
