//! One row of x by rows behind a bitmap, straight from the kept weights: they are spread in a
//! register and never written to memory. AVX-512 VBMI2 only, and whole words of bits; elsewhere a
//! row is decoded and then multiplied.
//!
//! The bits are those of `linear::tile` on the decoded row: the same weights, added to the same
//! lanes in the same order, blocks of `BLOCK_BYTES`, the same tree.
//!
//! The trick: four rows at a time share the loads of x and hide each other's latency.

use std::arch::x86_64::{
    __m512, __m512bh, _mm256_maskz_expand_epi8, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_maskz_expand_epi16,
};
use std::ops::Range;

use half::{bf16, f16};

use super::expand::avx512::{broadcast, next_codes, next_values, scaled, widened};
use super::{BITMAP_WORD, BitmapData, BitmapMatrix};
use crate::isa::Isa;
use crate::lanes::{Avx512, Lanes};
use crate::linear::BLOCK_BYTES;

/// Rows that are multiplied together.
const ROWS: usize = 4;

/// `y[i] = x . W[rows.start + i]` in f32, or `false`.
pub(super) fn f32(isa: Isa, w: &BitmapMatrix, x: &[f32], rows: Range<usize>, y: &mut [f32]) -> bool {
    let whole = w.cols.is_multiple_of(BITMAP_WORD);
    let (Some(token), Some(_), true) = (isa.avx512(), isa.vbmi2(), whole) else { return false };
    // SAFETY: the tokens prove the features.
    unsafe {
        match &w.data {
            BitmapData::Bf16(values) => f32_rows(token, w, (Widened(values), x), rows, y),
            BitmapData::Int8 { codes, scales, group } => {
                let kind = Scaled { codes, scales, group: *group, groups: w.cols.div_ceil(*group) };
                f32_rows(token, w, (kind, x), rows, y);
            }
        }
    }
    true
}

/// The same by pairs of bf16, or `false`.
pub(super) fn bf16(isa: Isa, w: &BitmapMatrix, x: &[bf16], rows: Range<usize>, y: &mut [f32]) -> bool {
    let whole = w.cols.is_multiple_of(BITMAP_WORD);
    let (Some(token), Some(_), true) = (isa.bf16(), isa.vbmi2(), whole) else { return false };
    let BitmapData::Bf16(values) = &w.data else { return false };
    // SAFETY: the tokens prove the features.
    unsafe { bf16_rows(token.lanes(), w, (Pairs(values), x), rows, y) };
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
fn bf16_rows(token: Avx512, w: &BitmapMatrix, of: (Pairs<'_>, &[bf16]), rows: Range<usize>, y: &mut [f32]) {
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
    /// Columns of a group.
    fn group(&self) -> usize;
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
    for (first, y) in rows.clone().step_by(ROWS).zip(y.chunks_mut(ROWS)) {
        // Behind the last row it repeats, and the results are dropped.
        let last = rows.end - 1;
        let four = [first, last.min(first + 1), last.min(first + 2), last.min(first + 3)];
        let totals = four_rows(token, w, (kept, x), four);
        y.copy_from_slice(&totals[..y.len()]);
    }
}

#[inline(always)]
fn four_rows<K: Kept>(
    token: Avx512,
    w: &BitmapMatrix,
    (kept, x): (K, &[K::X]),
    rows: [usize; ROWS],
) -> [f32; ROWS] {
    let block = BLOCK_BYTES / size_of::<K::X>();
    let bits = [w.row(rows[0]).0, w.row(rows[1]).0, w.row(rows[2]).0, w.row(rows[3]).0];
    let mut at = [w.row(rows[0]).1, w.row(rows[1]).1, w.row(rows[2]).1, w.row(rows[3]).1];
    // SAFETY: the caller enables the features.
    let mut scales = unsafe { [kept.scale(rows[0], 0); ROWS] };
    let mut totals = [0.0; ROWS];
    let mut sums = [token.splat(0.0); ROWS];
    let mut column = 0;
    while column < x.len() {
        if column % kept.group() == 0 {
            for r in 0..ROWS {
                // SAFETY: as above.
                scales[r] = unsafe { kept.scale(rows[r], column / kept.group()) };
            }
        }
        let end = |step: usize| (column / step + 1).saturating_mul(step);
        let end = x.len().min(end(kept.group())).min(end(block));
        for column in (column..end).step_by(BITMAP_WORD) {
            for r in 0..ROWS {
                // SAFETY: as above; the words of a row and x both reach `column`, by whole words.
                unsafe {
                    let bits = *bits[r].get_unchecked(column / BITMAP_WORD);
                    sums[r] = kept.add(bits, at[r], scales[r], x.as_ptr().add(column), sums[r]);
                    at[r] += bits.count_ones() as usize;
                }
            }
        }
        if end % block == 0 || end == x.len() {
            let values = token.sum4(sums);
            for r in 0..ROWS {
                totals[r] = if end <= block { values[r] } else { totals[r] + values[r] };
            }
            sums = [token.splat(0.0); ROWS];
        }
        column = end;
    }
    totals
}

/// bf16 by f32.
#[derive(Clone, Copy)]
struct Widened<'a>(&'a [bf16]);

impl Kept for Widened<'_> {
    type X = f32;
    type Scale = ();
    fn group(&self) -> usize {
        usize::MAX
    }
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
struct Scaled<'a> {
    codes: &'a [i8],
    scales: &'a [f16],
    group: usize,
    groups: usize,
}

impl Kept for Scaled<'_> {
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
            let [low, high] = scaled(scale, _mm256_maskz_expand_epi8(bits, next_codes(self.codes, at)));
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
    fn group(&self) -> usize {
        usize::MAX
    }
    #[inline(always)]
    unsafe fn scale(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn add(&self, bits: u32, at: usize, _: (), x: *const bf16, sums: __m512) -> __m512 {
        // SAFETY: the caller's features and numbers; the casts keep all bits.
        unsafe {
            let row = _mm512_maskz_expand_epi16(bits, next_values(self.0, at));
            let [x, row] = [_mm512_loadu_si512(x.cast()), row].map(|v| std::mem::transmute::<_, __m512bh>(v));
            _mm512_dpbf16_ps(sums, x, row)
        }
    }
}
