//! One row of x by rows behind a bitmap, straight from the kept weights: they are spread in a
//! register and never written to memory. AVX-512 VBMI2 only, and whole words of bits; elsewhere a
//! row is decoded and then multiplied.
//!
//! The bits are those of `linear::tile` on the decoded row: the same weights, added to the same
//! lanes in the same order, blocks of `BLOCK_BYTES`, the same tree.
//!
//! Rows go one after another, not several side by side as those of other layouts: kept weights are
//! then one stream from memory, which a CPU fetches ahead; from four short streams it came at a
//! third of the speed.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm256_maskz_expand_epi8, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_expand_epi16,
};
use std::ops::Range;

use half::{bf16, f16};

use super::expand::avx512::{broadcast, next_values, scaled, widened};
use super::expand::{Codes, Nibbles};
use super::{BITMAP_WORD, BitmapData, BitmapMatrix};
use crate::isa::Isa;
use crate::lanes::{Avx512, Lanes};
use crate::linear::BLOCK_BYTES;

/// `y[i] = x . W[rows.start + i]` in f32, or `false`.
pub(super) fn f32(isa: Isa, w: &BitmapMatrix, x: &[f32], rows: Range<usize>, y: &mut [f32]) -> bool {
    let whole = w.cols.is_multiple_of(BITMAP_WORD);
    let (Some(token), Some(_), true) = (isa.avx512(), isa.vbmi2(), whole) else { return false };
    // SAFETY: the tokens prove the features.
    unsafe {
        match &w.data {
            BitmapData::Bf16(values) => f32_rows(token, w, (Widened(values), x), rows, y),
            BitmapData::Int8 { codes, scales, group } => {
                f32_rows(token, w, (Scaled::of(w, &codes[..], scales, *group), x), rows, y);
            }
            BitmapData::Int4 { words, scales, group } => {
                f32_rows(token, w, (Scaled::of(w, Nibbles(words), scales, *group), x), rows, y);
            }
        }
    }
    true
}

/// The same by pairs of bf16, or `false`.
pub(super) fn bf16(isa: Isa, w: &BitmapMatrix, x: &[bf16], rows: Range<usize>, y: &mut [f32]) -> bool {
    let whole = w.cols.is_multiple_of(BITMAP_WORD);
    let (Some(token), Some(_), true) = (isa.bf16(), isa.vbmi2(), whole) else { return false };
    // SAFETY: the tokens prove the features.
    unsafe {
        match &w.data {
            BitmapData::Bf16(values) => bf16_rows(token.lanes(), w, (Pairs(values), x), rows, y),
            BitmapData::Int8 { codes, scales, group } => {
                let kind = Rounded(Scaled::of(w, &codes[..], scales, *group));
                bf16_rows(token.lanes(), w, (kind, x), rows, y);
            }
            BitmapData::Int4 { words, scales, group } => {
                let kind = Rounded(Scaled::of(w, Nibbles(words), scales, *group));
                bf16_rows(token.lanes(), w, (kind, x), rows, y);
            }
        }
    }
    true
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2")]
fn f32_rows<K: Kept<X = f32>>(
    token: Avx512,
    w: &BitmapMatrix,
    of: (K, &[f32]),
    rows: Range<usize>,
    y: &mut [f32],
) {
    all_rows(token, w, of, rows, y);
}

#[target_feature(
    enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512bf16"
)]
fn bf16_rows<K: Kept<X = bf16>>(
    token: Avx512,
    w: &BitmapMatrix,
    of: (K, &[bf16]),
    rows: Range<usize>,
    y: &mut [f32],
) {
    all_rows(token, w, of, rows, y);
}

/// Kept weights that are multiplied with one kind of x.
///
/// The unsafe methods may only be called where the CPU has what `f32_rows` or `bf16_rows` enables.
trait Kept: Copy {
    /// A number of x.
    type X;
    /// What a group has in common.
    type Scale: Copy;
    /// Columns of a group; more than there are, where nothing is in common.
    fn group(&self) -> usize {
        usize::MAX
    }
    /// What is common to a group of a row.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn scale(&self, row: usize, group: usize) -> Self::Scale;
    /// `sums` and the products with the 32 numbers at `x` of the weights from `at` on, spread by
    /// `bits`.
    ///
    /// # Safety
    /// The trait's, and 32 readable numbers at `x`.
    unsafe fn add(&self, bits: u32, at: usize, scale: Self::Scale, x: *const Self::X, sums: __m512)
    -> __m512;
}

#[inline(always)]
fn all_rows<K: Kept>(
    token: Avx512,
    w: &BitmapMatrix,
    (kept, x): (K, &[K::X]),
    rows: Range<usize>,
    y: &mut [f32],
) {
    assert!(x.len() == w.cols && w.cols.is_multiple_of(BITMAP_WORD) && y.len() == rows.len());
    for (row, y) in rows.zip(y) {
        *y = one_row(token, w, (kept, x), row);
    }
}

#[inline(always)]
fn one_row<K: Kept>(token: Avx512, w: &BitmapMatrix, (kept, x): (K, &[K::X]), row: usize) -> f32 {
    let (block, group) = (BLOCK_BYTES / size_of::<K::X>(), kept.group());
    let (bits, mut at) = w.row(row);
    let mut total = 0.0;
    let mut sums = token.splat(0.0);
    let mut column = 0;
    while column < x.len() {
        // SAFETY: the caller enables the features. A run below ends where a group does.
        let scale = unsafe { kept.scale(row, column / group) };
        let end = |step: usize| (column / step + 1).saturating_mul(step);
        let end = x.len().min(end(group)).min(end(block));
        for column in (column..end).step_by(BITMAP_WORD) {
            // SAFETY: as above; the words of a row and x both reach `end`, by whole words.
            unsafe {
                let bits = *bits.get_unchecked(column / BITMAP_WORD);
                sums = kept.add(bits, at, scale, x.as_ptr().add(column), sums);
                at += bits.count_ones() as usize;
            }
        }
        if end % block == 0 || end == x.len() {
            let value = token.sum(sums);
            total = if end <= block { value } else { total + value };
            sums = token.splat(0.0);
        }
        column = end;
    }
    total
}

/// bf16 by f32.
#[derive(Clone, Copy)]
struct Widened<'a>(&'a [bf16]);

impl Kept for Widened<'_> {
    type X = f32;
    type Scale = ();
    #[inline(always)]
    unsafe fn scale(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn add(&self, bits: u32, at: usize, _: (), x: *const f32, sums: __m512) -> __m512 {
        // SAFETY: the caller's features and numbers.
        unsafe {
            let [low, high] = widened(_mm512_maskz_expand_epi16(bits, next_values(self.0, at)));
            let sums = _mm512_fmadd_ps(_mm512_loadu_ps(x), low, sums);
            _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16)), high, sums)
        }
    }
}

/// Codes and scales by f32.
#[derive(Clone, Copy)]
struct Scaled<'a, C> {
    codes: C,
    scales: &'a [f16],
    group: usize,
    groups: usize,
}

impl<'a, C: Codes> Scaled<'a, C> {
    fn of(w: &BitmapMatrix, codes: C, scales: &'a [f16], group: usize) -> Self {
        Self { codes, scales, group, groups: w.cols.div_ceil(group) }
    }
}

impl<C: Codes> Kept for Scaled<'_, C> {
    type X = f32;
    type Scale = __m512;
    fn group(&self) -> usize {
        self.group
    }
    #[inline(always)]
    unsafe fn scale(&self, row: usize, group: usize) -> __m512 {
        // SAFETY: the caller's features.
        unsafe { broadcast(self.scales[row * self.groups + group]) }
    }
    #[inline(always)]
    unsafe fn add(&self, bits: u32, at: usize, scale: __m512, x: *const f32, sums: __m512) -> __m512 {
        // SAFETY: the caller's features and numbers.
        unsafe {
            let [low, high] = scaled(scale, _mm256_maskz_expand_epi8(bits, self.codes.next(at)));
            let sums = _mm512_fmadd_ps(_mm512_loadu_ps(x), low, sums);
            _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16)), high, sums)
        }
    }
}

/// bf16 by bf16, two products a lane.
#[derive(Clone, Copy)]
struct Pairs<'a>(&'a [bf16]);

impl Kept for Pairs<'_> {
    type X = bf16;
    type Scale = ();
    #[inline(always)]
    unsafe fn scale(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn add(&self, bits: u32, at: usize, _: (), x: *const bf16, sums: __m512) -> __m512 {
        // SAFETY: the caller's features and numbers.
        unsafe { add_pairs(x, _mm512_maskz_expand_epi16(bits, next_values(self.0, at)), sums) }
    }
}

/// Codes and scales, rounded to bf16, by bf16.
#[derive(Clone, Copy)]
struct Rounded<'a, C>(Scaled<'a, C>);

impl<C: Codes> Kept for Rounded<'_, C> {
    type X = bf16;
    type Scale = __m512;
    fn group(&self) -> usize {
        self.0.group
    }
    #[inline(always)]
    unsafe fn scale(&self, row: usize, group: usize) -> __m512 {
        // SAFETY: the caller's features.
        unsafe { self.0.scale(row, group) }
    }
    #[inline(always)]
    unsafe fn add(&self, bits: u32, at: usize, scale: __m512, x: *const bf16, sums: __m512) -> __m512 {
        // SAFETY: the caller's features and numbers; the cast keeps all bits.
        unsafe {
            let codes = _mm256_maskz_expand_epi8(bits, self.0.codes.next(at));
            let [low, high] = scaled(scale, codes);
            add_pairs(x, std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)), sums)
        }
    }
}

/// `sums` and the products of 32 bf16 at `x` with those of `row`.
///
/// # Safety
/// 32 readable numbers at `x`, and the features of `bf16_rows`.
#[inline(always)]
unsafe fn add_pairs(x: *const bf16, row: __m512i, sums: __m512) -> __m512 {
    // SAFETY: the caller's promise; the casts keep all bits.
    unsafe {
        let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(x.cast()));
        _mm512_dpbf16_ps(sums, x, std::mem::transmute::<__m512i, __m512bh>(row))
    }
}
