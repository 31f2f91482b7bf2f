//! Kept weights of one row to their places: `out[i] = bit i ? the next value : 0`. Knows no
//! matrix. The same bits on every instruction set: nothing is rounded but `scale * code`, once.
//!
//! The trick: AVX-512 VBMI2 and F spread a register's first lanes to the set bits of a mask in
//! one instruction. Values are loaded whole and spread in the register, since spreading while
//! loading is many times slower; where the next value is follows from the counts of bits alone,
//! so no step waits for another.

use half::{bf16, f16};

use super::BITMAP_WORD;
use crate::isa::Isa;

/// A word of bits at a time, for a function of the value that a place gets.
#[inline(always)]
fn spread<V, T: Copy>(
    bits: &[u32],
    mut values: impl Iterator<Item = V>,
    out: &mut [T],
    zero: T,
    of: impl Fn(usize, V) -> T,
) {
    for (word, (&bits, out)) in bits.iter().zip(out.chunks_mut(BITMAP_WORD)).enumerate() {
        out.fill(zero);
        let mut left = bits;
        while left != 0 {
            if let Some(value) = values.next() {
                out[left.trailing_zeros() as usize] = of(word * BITMAP_WORD, value);
            }
            left &= left - 1;
        }
    }
}

/// A row of bf16 as it is.
pub(super) fn bf16_to_bf16(isa: Isa, bits: &[u32], values: &[bf16], out: &mut [bf16]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.vbmi2().is_some() {
        // SAFETY: the token proves the features that the function enables.
        return unsafe { avx512::bf16_to_bf16(bits, values, out) };
    }
    let _ = isa;
    spread(bits, values.iter().copied(), out, bf16::ZERO, |_, value| value);
}

/// A row of bf16, widened.
pub(super) fn bf16_to_f32(isa: Isa, bits: &[u32], values: &[bf16], out: &mut [f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.vbmi2().is_some() {
        // SAFETY: as above.
        return unsafe { avx512::bf16_to_f32(bits, values, out) };
    }
    let _ = isa;
    // A bf16 is the upper half of an f32.
    spread(bits, values.iter().copied(), out, 0.0, |_, value| {
        f32::from_bits(u32::from(value.to_bits()) << 16)
    });
}

/// Codes of kept weights, one stream for all rows.
pub(super) trait Codes: Copy {
    /// The code at a place of the stream. It is there.
    fn code(self, at: usize) -> i8;
    /// How many there are.
    fn len(self) -> usize;
    /// The 32 codes from `at` on, as far as they are there.
    ///
    /// # Safety
    /// The CPU has what `avx512::codes_to_f32` enables.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe fn next(self, at: usize) -> std::arch::x86_64::__m256i;
}

impl Codes for &[i8] {
    #[inline(always)]
    fn code(self, at: usize) -> i8 {
        self[at]
    }
    #[inline(always)]
    fn len(self) -> usize {
        <[i8]>::len(self)
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    unsafe fn next(self, at: usize) -> std::arch::x86_64::__m256i {
        // SAFETY: the caller's features.
        unsafe { avx512::next_codes(self, at) }
    }
}

/// Two's complement codes of 4 bits, eight a word, the first in the lowest bits.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a>(pub(super) &'a [u32]);

impl Codes for Nibbles<'_> {
    #[inline(always)]
    fn code(self, at: usize) -> i8 {
        // Up to the sign bit, and back with the sign.
        ((self.0[at / 8] >> (at % 8 * 4) << 4) as u8 as i8) >> 4
    }
    #[inline(always)]
    fn len(self) -> usize {
        self.0.len() * 8
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    unsafe fn next(self, at: usize) -> std::arch::x86_64::__m256i {
        // SAFETY: the caller's features.
        unsafe { avx512::next_nibbles(self.0, at) }
    }
}

/// A row of codes from `start` on times the scales of their groups.
pub(super) fn codes_to_f32(
    isa: Isa,
    bits: &[u32],
    (codes, start): (impl Codes, usize),
    (scales, group): (&[f16], usize),
    out: &mut [f32],
) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.vbmi2().is_some() {
        // SAFETY: as above.
        return unsafe { avx512::codes_to_f32(bits, (codes, start), (scales, group), out) };
    }
    let _ = isa;
    let codes = (start..codes.len()).map(|at| codes.code(at));
    // A group begins at a word of the bitmap, so a word has one scale.
    spread(bits, codes, out, 0.0, |column, code| scales[column / group].to_f32() * f32::from(code));
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{BITMAP_WORD, Codes};

    /// The 32 values from `at` on as far as they are there; a full load nearly always.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn next_values(values: &[bf16], at: usize) -> __m512i {
        match values.get(at..at + BITMAP_WORD) {
            // SAFETY: 32 values can be read.
            Some(values) => unsafe { _mm512_loadu_si512(values.as_ptr().cast()) },
            None => {
                let left = &values[at.min(values.len())..];
                // SAFETY: lanes behind the last value are masked off.
                unsafe { _mm512_maskz_loadu_epi16(first(left.len()), left.as_ptr().cast()) }
            }
        }
    }

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(super) fn bf16_to_bf16(bits: &[u32], values: &[bf16], out: &mut [bf16]) {
        let mut at = 0;
        let (whole, rest) = out.as_chunks_mut::<BITMAP_WORD>();
        for (&bits, out) in bits.iter().zip(whole) {
            let row = _mm512_maskz_expand_epi16(bits, next_values(values, at));
            at += bits.count_ones() as usize;
            // SAFETY: `out` has 32 places.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
        }
        if let (false, Some(&bits)) = (rest.is_empty(), bits.last()) {
            let row = _mm512_maskz_expand_epi16(bits, next_values(values, at));
            // SAFETY: lanes behind `rest` are masked off.
            unsafe { _mm512_mask_storeu_epi16(rest.as_mut_ptr().cast(), first(rest.len()), row) };
        }
    }

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(super) fn bf16_to_f32(bits: &[u32], values: &[bf16], out: &mut [f32]) {
        let mut at = 0;
        for (&bits, out) in bits.iter().zip(out.chunks_mut(BITMAP_WORD)) {
            let row = _mm512_maskz_expand_epi16(bits, next_values(values, at));
            at += bits.count_ones() as usize;
            store(out, widened(row));
        }
    }

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(super) fn codes_to_f32(
        bits: &[u32],
        (codes, mut at): (impl Codes, usize),
        (scales, group): (&[f16], usize),
        out: &mut [f32],
    ) {
        let words = group.div_ceil(BITMAP_WORD);
        for ((bits, out), &scale) in bits.chunks(words).zip(out.chunks_mut(words * BITMAP_WORD)).zip(scales) {
            let scale = broadcast(scale);
            for (&bits, out) in bits.iter().zip(out.chunks_mut(BITMAP_WORD)) {
                // SAFETY: this function enables the features.
                let row = _mm256_maskz_expand_epi8(bits, unsafe { codes.next(at) });
                at += bits.count_ones() as usize;
                store(out, scaled(scale, row));
            }
        }
    }

    /// A bf16 is the upper half of an f32.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn widened(row: __m512i) -> [__m512; 2] {
        [_mm512_castsi512_si256(row), _mm512_extracti64x4_epi64::<1>(row)]
            .map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
    }

    /// `scale * code`.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn scaled(scale: __m512, row: __m256i) -> [__m512; 2] {
        [_mm256_castsi256_si128(row), _mm256_extracti128_si256::<1>(row)]
            .map(|half| _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half))))
    }

    /// A scale in every lane, without a call for the conversion.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn broadcast(scale: f16) -> __m512 {
        _mm512_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(scale.to_bits().into()))))
    }

    /// The same of codes.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn next_codes(codes: &[i8], at: usize) -> __m256i {
        match codes.get(at..at + BITMAP_WORD) {
            // SAFETY: 32 codes can be read.
            Some(codes) => unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) },
            None => {
                let left = &codes[at.min(codes.len())..];
                // SAFETY: lanes behind the last code are masked off.
                unsafe { _mm256_maskz_loadu_epi8(first(left.len()), left.as_ptr()) }
            }
        }
    }

    /// The same of codes of 4 bits.
    //
    // 32 codes are 16 bytes that may begin in the middle of one: each 16 bits are shifted, with the 16 bits behind them
    // following. Then every byte is doubled to 16 bits and both halves are cut to a code.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    pub(in super::super) fn next_nibbles(words: &[u32], at: usize) -> __m256i {
        const TOUCHED: usize = 18;
        let (start, there) = (words.as_ptr().cast::<i8>(), size_of_val(words));
        let byte = at / 2;
        let (low, high) = if byte + TOUCHED <= there {
            // SAFETY: 18 bytes are there.
            unsafe {
                let low = _mm_loadu_si128(start.add(byte).cast());
                (low, _mm_loadu_si128(start.add(byte + 2).cast()))
            }
        } else {
            let left = |from: usize| first(there.saturating_sub(from).min(16)) as u16;
            // SAFETY: bytes behind the last are masked off.
            unsafe {
                let low = _mm_maskz_loadu_epi8(left(byte), start.wrapping_add(byte));
                (low, _mm_maskz_loadu_epi8(left(byte + 2), start.wrapping_add(byte + 2)))
            }
        };
        let bytes = _mm_shrdv_epi16(low, high, _mm_set1_epi16((at % 2 * 4) as i16));
        let wide = _mm256_cvtepu8_epi16(bytes);
        let codes =
            _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16::<4>(wide)), _mm256_set1_epi8(15));
        // The sign of 4 bits to that of 8.
        let sign = _mm256_set1_epi8(8);
        _mm256_sub_epi8(_mm256_xor_si256(codes, sign), sign)
    }

    /// A mask of the first `count < 32` lanes.
    #[inline]
    fn first(count: usize) -> u32 {
        (1 << count) - 1
    }

    /// 32 lanes, or as many as there is room for.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2"
    )]
    fn store(out: &mut [f32], [low, high]: [__m512; 2]) {
        if let Some(out) = out.first_chunk_mut::<BITMAP_WORD>() {
            // SAFETY: `out` has 32 places.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), low);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), high);
            }
            return;
        }
        let there = first(out.len());
        // SAFETY: lanes behind `out` are masked off; a masked store of none touches nothing.
        unsafe {
            _mm512_mask_storeu_ps(out.as_mut_ptr(), there as u16, low);
            _mm512_mask_storeu_ps(out.as_mut_ptr().wrapping_add(16), (there >> 16) as u16, high);
        }
    }
}
