//! A sparse matrix on top of a dense product: `y[i, j] += alpha * sum_e v_e x[i, c_e]` over
//! the entries of row `j`. Knows no dense matrix; `linear` calls it for a panel of columns.
//!
//! Arithmetic, the same for one row of x and for many, on every instruction set: each
//! product is rounded, products are added in the order of the entries starting from 0, the
//! sum times alpha is rounded and added to y.
//!
//! The trick for many rows: 16 of them stand side by side (`Transposed`), so that an entry
//! is one multiplication of 16 numbers. For one row of x: products first, sums after.

#[cfg(test)]
pub(crate) mod scalar;
mod tiles;

pub(crate) use tiles::{add_tiles, prefetch_tiles};

use std::cell::Cell;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use crate::aligned::{Aligned, numbers, numbers_mut};
use crate::isa::{Isa, per_isa};
use crate::pack::SparseRows;
use crate::pool::Cpu;

/// Rows of x that stand side by side.
const SIDE: usize = 16;

thread_local! {
    /// A thread's products or sums of one panel.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Rows of x as the sparse product wants them.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// One row.
    Row(&'a [f32]),
    /// Rows in groups of 16, `[group][k][16]`, zeros behind the last, and how many there are.
    Transposed(&'a [f32], usize),
}

impl<'a> Input<'a> {
    /// Prepares rows of `k` values.
    pub(crate) fn new(cpu: &Cpu, x: &'a [f32], k: usize, buffer: &'a mut Aligned) -> Self {
        let m = x.len() / k;
        if m == 1 {
            return Self::Row(x);
        }
        let lines = buffer.lines(m.div_ceil(SIDE) * k);
        cpu.pool.run_chunks(lines, k, &|group, lines| {
            let to = numbers_mut::<f32>(lines);
            let rows = &x[group * SIDE * k..(group * SIDE * k + SIDE * k).min(x.len())];
            to.fill(0.0);
            for (side, row) in rows.chunks_exact(k).enumerate() {
                row.iter().zip(to.chunks_exact_mut(SIDE)).for_each(|(x, to)| to[side] = *x);
            }
        });
        Self::Transposed(numbers::<f32>(lines), m)
    }
}

/// Adds the product with rows `rows` of the sparse matrix; `place(i)` is `y[i, rows]`.
pub(crate) fn add_panel<'y>(
    isa: Isa,
    x: Input<'_>,
    (sparse, alpha): (&SparseRows, f32),
    rows: Range<usize>,
    mut place: impl FnMut(usize) -> &'y mut [f32],
) {
    let mut scratch = SCRATCH.take();
    match x {
        Input::Row(x) => {
            let (columns, values) = sparse.rows_between(rows.clone());
            scratch.resize(columns.len().max(scratch.len()), 0.0);
            let products = &mut scratch[..columns.len()];
            multiply(isa, x, columns, values, products);
            sum_rows(isa, products, &sparse.starts()[rows.start..=rows.end], alpha, place(0));
        }
        Input::Transposed(x, m) => {
            let (columns, values) = sparse.rows_between(rows.clone());
            let mut wide = vec![0.0; values.len()];
            values.convert_to_f32_slice(&mut wide);
            let entries = Entries { starts: &sparse.starts()[rows.start..=rows.end], columns, values: &wide };
            add_sides(isa, (x, m, sparse.cols()), (entries, alpha), &mut scratch, place);
        }
    }
    SCRATCH.set(scratch);
}

/// Entries of some rows, row by row.
#[derive(Clone, Copy)]
struct Entries<'a> {
    /// First entry of each row, and the end of the last; counted from the first of these.
    starts: &'a [u32],
    columns: &'a [u16],
    values: &'a [f32],
}

/// Adds the product of `m` rows of x `[group][cols][16]` with some rows; `place(i)` is their part of `y[i]`.
fn add_sides<'y>(
    isa: Isa,
    (x, m, cols): (&[f32], usize, usize),
    (entries, alpha): (Entries<'_>, f32),
    scratch: &mut Vec<f32>,
    mut place: impl FnMut(usize) -> &'y mut [f32],
) {
    let count = entries.starts.len() - 1;
    scratch.resize((count * SIDE).max(scratch.len()), 0.0);
    let sums = &mut scratch[..count * SIDE];
    for (first, x) in (0..m).step_by(SIDE).zip(x.chunks_exact(SIDE * cols)) {
        side_sums(isa, x, entries, alpha, sums);
        for side in 0..SIDE.min(m - first) {
            let y = place(first + side);
            y.iter_mut().zip(sums.chunks_exact(SIDE)).for_each(|(y, sums)| *y += sums[side]);
        }
    }
}

/// Adds alpha times the sum of each row's products; `starts` are those of the rows, and one more.
fn sum_rows(isa: Isa, products: &[f32], starts: &[u32], alpha: f32, y: &mut [f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.avx512().is_some() {
        // SAFETY: the token proves the features.
        return unsafe { sum_rows_avx512(products, starts, alpha, y) };
    }
    let _ = isa;
    for (y, row) in y.iter_mut().zip(starts.windows(2)) {
        let row = (row[0] - starts[0]) as usize..(row[1] - starts[0]) as usize;
        *y += alpha * products[row].iter().fold(0.0, |sum, p| sum + p);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn sum_rows_avx512(products: &[f32], starts: &[u32], alpha: f32, y: &mut [f32]) {
    use std::arch::x86_64::*;
    for (y, row) in y.iter_mut().zip(starts.windows(2)) {
        let row = &products[(row[0] - starts[0]) as usize..(row[1] - starts[0]) as usize];
        let (mut sum, mut at) = (_mm_setzero_ps(), 0);
        // Eight at a time, zeros behind the last: hardly a row has more, so the loop is predicted.
        loop {
            let here = ((1u32 << (row.len() - at).min(8)) - 1) as __mmask8;
            // SAFETY: masked-off products are not read.
            let eight = unsafe { _mm256_maskz_loadu_ps(here, row.as_ptr().add(at)) };
            for four in [_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)] {
                sum = _mm_add_ss(sum, four);
                sum = _mm_add_ss(sum, _mm_movehdup_ps(four));
                sum = _mm_add_ss(sum, _mm_movehl_ps(four, four));
                sum = _mm_add_ss(sum, _mm_permute_ps::<3>(four));
            }
            at += 8;
            if at >= row.len() {
                break;
            }
        }
        *y += alpha * _mm_cvtss_f32(sum);
    }
}

/// `out[e] = v_e x[c_e]`.
fn multiply(isa: Isa, x: &[f32], columns: &[u16], values: &[half::f16], out: &mut [f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.avx512().is_some() {
        // SAFETY: the token proves the features.
        return unsafe { multiply_avx512(x, columns, values, out) };
    }
    let _ = isa;
    for ((out, column), value) in out.iter_mut().zip(columns).zip(values) {
        *out = value.to_f32() * x[usize::from(*column)];
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn multiply_avx512(x: &[f32], columns: &[u16], values: &[half::f16], out: &mut [f32]) {
    use std::arch::x86_64::*;
    assert!(columns.len() == values.len() && columns.len() == out.len());
    let limit = _mm512_set1_epi32(i32::try_from(x.len()).unwrap_or(i32::MAX));
    for at in (0..out.len()).step_by(16) {
        let here = ((1u32 << (out.len() - at).min(16)) - 1) as __mmask16;
        // SAFETY: masked-off entries are not read or written; a column at or behind the end
        // of x is masked off as well.
        unsafe {
            let column =
                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, columns.as_ptr().add(at).cast()));
            let value = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(here, values.as_ptr().add(at).cast()));
            let inside = _mm512_mask_cmplt_epi32_mask(here, column, limit);
            let x = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), inside, column, x.as_ptr());
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(at), here, _mm512_mul_ps(value, x));
        }
    }
}

per_isa! {
    /// `out[j][s] = alpha * sum_e v_e x[c_e][s]` for 16 rows side by side.
    fn side_sums<L>(_l, x: &[f32], entries: Entries<'_>, alpha: f32, out: &mut [f32]) {
        let (x, _) = x.as_chunks::<SIDE>();
        let (out, _) = out.as_chunks_mut::<SIDE>();
        let mut left = entries.columns.iter().zip(entries.values);
        for (row, out) in entries.starts.windows(2).zip(out) {
            let mut sums = [0.0f32; SIDE];
            for (column, value) in left.by_ref().take((row[1] - row[0]) as usize) {
                let x = &x[usize::from(*column)];
                for side in 0..SIDE {
                    sums[side] += value * x[side];
                }
            }
            for side in 0..SIDE {
                out[side] = alpha * sums[side];
            }
        }
    }
}
