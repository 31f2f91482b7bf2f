//! Dot products straight from stored rows: what one token needs of a linear. The weights
//! are decoded into registers and never written to memory. AVX-512 only; elsewhere, and
//! where groups do not start at a vector, a row is decoded and then multiplied.
//!
//! The bits are those of `linear::tile` on the decoded row: the same weights, added to the
//! same lanes in the same order, blocks of `BLOCK` vectors, the same tree.
//!
//! The trick: four rows at a time share the loads of x and hide each other's latency.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};

use crate::lanes::{Avx512, Lanes};
use crate::linear::BLOCK_BYTES;

/// Rows that are multiplied together.
const ROWS: usize = 4;
/// f32 in a vector.
const WIDTH: usize = 16;
/// Vectors of a block of the sum.
const BLOCK: usize = BLOCK_BYTES / (WIDTH * size_of::<f32>());

/// A matrix whose rows come as vectors of 16 weights.
///
/// The unsafe methods may only be called where the CPU has AVX-512 F, BW, VL and DQ.
pub(super) trait Vectors: Copy {
    /// What a row keeps from one vector to the next.
    type Row: Copy;
    /// Vectors that share a group; a row is a whole number of vectors.
    fn group(&self) -> usize;
    /// A row, before its first vector.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn row(&self, row: usize) -> Self::Row;
    /// Moves a row to a group.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn enter(&self, row: &mut Self::Row, group: usize);
    /// The weights of a vector of the group that the row is in.
    ///
    /// # Safety
    /// The trait's, and `vector` lies in the row.
    unsafe fn weights(&self, row: &Self::Row, vector: usize) -> __m512;
}

/// `y[i] = x . W[rows.start + i]`; `x` is whole vectors.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn dots<V: Vectors>(token: Avx512, w: V, x: &[f32], rows: Range<usize>, y: &mut [f32]) {
    assert_eq!(y.len(), rows.len());
    for (four, y) in rows.clone().step_by(ROWS).zip(y.chunks_mut(ROWS)) {
        // Behind the last row it repeats, and the results are dropped.
        let last = rows.end - 1;
        // SAFETY: the token proves the instructions.
        let of = unsafe {
            [w.row(four), w.row(last.min(four + 1)), w.row(last.min(four + 2)), w.row(last.min(four + 3))]
        };
        let sums = four_dots(token, w, x, of);
        y.copy_from_slice(&sums[..y.len()]);
    }
}

#[inline(always)]
fn four_dots<V: Vectors>(token: Avx512, w: V, x: &[f32], mut rows: [V::Row; ROWS]) -> [f32; ROWS] {
    let (vectors, group) = (x.len() / WIDTH, w.group());
    let mut totals = [0.0; ROWS];
    let mut sums = [token.splat(0.0); ROWS];
    let mut at = 0;
    while at < vectors {
        if at % group == 0 {
            // Loops, not closures: a closure would not be compiled for these instructions.
            for row in &mut rows {
                // SAFETY: the token proves the instructions.
                unsafe { w.enter(row, at / group) };
            }
        }
        let end = vectors.min((at / group + 1) * group).min((at / BLOCK + 1) * BLOCK);
        for vector in at..end {
            // SAFETY: `vector` lies in x and in every row.
            unsafe {
                let x = token.load_ptr(x.as_ptr().add(vector * WIDTH));
                for r in 0..ROWS {
                    sums[r] = token.fma(x, w.weights(&rows[r], vector), sums[r]);
                }
            }
        }
        at = end;
        if at % BLOCK == 0 || at == vectors {
            let block = token.sum4(sums);
            let first = at <= BLOCK;
            for r in 0..ROWS {
                totals[r] = if first { block[r] } else { totals[r] + block[r] };
            }
            sums = [token.splat(0.0); ROWS];
        }
    }
    totals
}

/// 16-bit floats.
#[derive(Clone, Copy)]
pub(super) struct F16<'a>(pub(super) &'a [f16], pub(super) usize);
/// Upper halves of f32.
#[derive(Clone, Copy)]
pub(super) struct Bf16<'a>(pub(super) &'a [bf16], pub(super) usize);

macro_rules! halves {
    ($name:ident, $element:ty, |$bits:ident| $widen:expr) => {
        impl<'a> Vectors for $name<'a> {
            type Row = &'a [$element];
            fn group(&self) -> usize {
                usize::MAX / WIDTH
            }
            #[inline(always)]
            unsafe fn row(&self, row: usize) -> Self::Row {
                &self.0[row * self.1..][..self.1]
            }
            #[inline(always)]
            unsafe fn enter(&self, _: &mut Self::Row, _: usize) {}
            #[inline(always)]
            unsafe fn weights(&self, row: &Self::Row, vector: usize) -> __m512 {
                // SAFETY: the caller keeps `vector` in the row, and the features are enabled.
                unsafe {
                    let $bits = _mm256_loadu_si256(row.as_ptr().add(vector * WIDTH).cast());
                    $widen
                }
            }
        }
    };
}

halves!(F16, f16, |bits| _mm512_cvtph_ps(bits));
halves!(Bf16, bf16, |bits| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))));
