//! Sixteen codes a step. Up to 4 bits a group has at most 16 different weights: they
//! are computed once into a register, and a code only picks one (`vpermps`).
//!
//! The trick: `vpermps` looks at the low 4 bits of a lane and ignores the rest, so a
//! code need not be masked; for 2 and 3 bits the table repeats itself, so the bits of
//! the next code do no harm.

use std::arch::x86_64::*;

use super::PackedRow;
use crate::pack::dots::Vectors;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn decode(row: PackedRow<'_>, out: &mut [f32]) {
    match row.bits {
        2 => by_table::<2>(row, out),
        3 => by_table::<3>(row, out),
        4 => by_table::<4>(row, out),
        _ => by_arithmetic(row, out),
    }
}

/// `lane * BITS`.
const fn bit_of(lane: usize, bits: usize) -> usize {
    lane * bits
}

/// For each lane: the two bytes that hold its code, out of 8 that are repeated.
const fn byte_pattern(bits: usize) -> [u8; 64] {
    let mut pattern = [0x80; 64]; // 0x80 gives a zero byte
    let mut lane = 0;
    while lane < 16 {
        let byte = bit_of(lane, bits) / 8;
        pattern[4 * lane] = byte as u8;
        pattern[4 * lane + 1] = (byte as u8 + 1) % 8;
        lane += 1;
    }
    pattern
}

/// For each lane: how far its code is shifted within those bytes.
const fn shift_pattern(bits: usize) -> [i32; 16] {
    let mut pattern = [0; 16];
    let mut lane = 0;
    while lane < 16 {
        pattern[lane] = (bit_of(lane, bits) % 8) as i32;
        lane += 1;
    }
    pattern
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn by_table<const BITS: usize>(row: PackedRow<'_>, out: &mut [f32]) {
    let (places, codes) = (places::<BITS>(), all_codes(BITS));
    let mut bytes = row.bytes();
    for (group, out) in out.chunks_mut(row.group).enumerate() {
        let table = weights_of(codes, broadcast(grid(&row, group)));
        // Steps whose eight bytes lie in the matrix: all but the very last few.
        let safe = (bytes.len().saturating_sub(8) / (2 * BITS)).min(out.len() / 16);
        let (whole, rest) = out.split_at_mut(16 * safe);
        for (i, out) in whole.chunks_exact_mut(16).enumerate() {
            // SAFETY: `i < safe`, so eight bytes can be read; `out` has 16 values.
            unsafe {
                let eight = bytes.as_ptr().add(i * 2 * BITS).cast::<i64>().read_unaligned();
                _mm512_storeu_ps(out.as_mut_ptr(), look_up(eight, places, table));
            }
        }
        bytes = &bytes[safe * 2 * BITS..];
        for out in rest.chunks_mut(16) {
            store(out, look_up(eight_bytes(bytes), places, table));
            bytes = bytes.get(2 * BITS..).unwrap_or_default();
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn by_arithmetic(row: PackedRow<'_>, out: &mut [f32]) {
    let mut bytes = row.bytes();
    for (group, out) in out.chunks_mut(row.group).enumerate() {
        let grid = broadcast(grid(&row, group));
        let weights = |codes: __m128i| weights_of(_mm512_cvtepu8_epi32(codes), grid);
        let (now, later) = bytes.split_at(out.len());
        let (mut codes, mut outs) = (now.chunks_exact(16), out.chunks_exact_mut(16));
        for (codes, out) in codes.by_ref().zip(outs.by_ref()) {
            // SAFETY: 16 bytes are read.
            store(out, weights(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }));
        }
        let mut last = [0u8; 16];
        last[..codes.remainder().len()].copy_from_slice(codes.remainder());
        // SAFETY: 16 bytes are read.
        store(outs.into_remainder(), weights(unsafe { _mm_loadu_si128(last.as_ptr().cast()) }));
        bytes = later;
    }
}

/// Scale and zero of a group, without a call for the conversion.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn grid(row: &PackedRow<'_>, group: usize) -> (f32, i32) {
    let scale = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(row.scales[group].to_bits())));
    (_mm_cvtss_f32(scale), row.zero(group))
}

/// The first eight bytes, zeros behind the end of the matrix.
fn eight_bytes(bytes: &[u8]) -> i64 {
    let mut first = [0; 8];
    let count = bytes.len().min(8);
    first[..count].copy_from_slice(&bytes[..count]);
    i64::from_le_bytes(first)
}

/// As many lanes as there is room for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn store(out: &mut [f32], value: __m512) {
    let mask = ((1u32 << out.len().min(16)) - 1) as __mmask16;
    // SAFETY: lanes behind `out` are masked off.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, value) };
}

/// For each lane: which bytes hold its code, and how far it is shifted within them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn places<const BITS: usize>() -> [__m512i; 2] {
    let (pick, shift) = const { (byte_pattern(BITS), shift_pattern(BITS)) };
    // SAFETY: both arrays are 64 bytes.
    unsafe { [_mm512_loadu_si512(pick.as_ptr().cast()), _mm512_loadu_si512(shift.as_ptr().cast())] }
}

/// All codes of up to 4 bits, again and again up to 16 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn all_codes(bits: usize) -> __m512i {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_and_si512(lanes, _mm512_set1_epi32((1 << bits) - 1))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn broadcast((scale, zero): (f32, i32)) -> (__m512, __m512i) {
    (_mm512_set1_ps(scale), _mm512_set1_epi32(zero))
}

/// `scale * (code - zero)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn weights_of(codes: __m512i, (scale, zero): (__m512, __m512i)) -> __m512 {
    _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, zero)))
}

/// The weights in `table` of the 16 codes that start eight bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn look_up(eight: i64, [pick, shift]: [__m512i; 2], table: __m512) -> __m512 {
    let index = _mm512_srlv_epi32(_mm512_shuffle_epi8(_mm512_set1_epi64(eight), pick), shift);
    _mm512_permutexvar_ps(index, table)
}

/// Rows of up to 4 bits as vectors; the table of a group lies in a register.
#[derive(Clone, Copy)]
pub(in crate::pack) struct Tables<'a, const BITS: usize, R: Fn(usize) -> PackedRow<'a> + Copy> {
    rows: R,
    group: usize,
    places: [__m512i; 2],
    codes: __m512i,
}

/// A row and the weights that the codes of its group stand for.
#[derive(Clone, Copy)]
pub(in crate::pack) struct TableRow<'a> {
    packed: PackedRow<'a>,
    table: __m512,
}

impl<'a, const BITS: usize, R: Fn(usize) -> PackedRow<'a> + Copy> Tables<'a, BITS, R> {
    /// `group` is in vectors. Every row must have eight readable bytes at each of its vectors.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(in crate::pack) fn new(group: usize, rows: R) -> Self {
        Self { rows, group, places: places::<BITS>(), codes: all_codes(BITS) }
    }
}

impl<'a, const BITS: usize, R: Fn(usize) -> PackedRow<'a> + Copy> Vectors for Tables<'a, BITS, R> {
    type Row = TableRow<'a>;
    fn group(&self) -> usize {
        self.group
    }
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> TableRow<'a> {
        // SAFETY: the caller's features.
        TableRow { packed: (self.rows)(row), table: unsafe { _mm512_setzero_ps() } }
    }
    #[inline(always)]
    unsafe fn enter(&self, row: &mut TableRow<'a>, group: usize) {
        // SAFETY: the caller's features.
        row.table = unsafe { weights_of(self.codes, broadcast(grid(&row.packed, group))) };
    }
    #[inline(always)]
    unsafe fn weights(&self, row: &TableRow<'a>, vector: usize) -> __m512 {
        // SAFETY: the constructor's promise: eight bytes can be read at every vector.
        unsafe {
            let eight = row.packed.words.as_ptr().cast::<u8>().add(vector * 2 * BITS).cast::<i64>();
            look_up(eight.read_unaligned(), self.places, row.table)
        }
    }
}

/// Rows of 8 bits as vectors.
#[derive(Clone, Copy)]
pub(in crate::pack) struct Bytes<R> {
    pub(in crate::pack) rows: R,
    /// Vectors of a group.
    pub(in crate::pack) group: usize,
}

/// A row and the grid of its group.
#[derive(Clone, Copy)]
pub(in crate::pack) struct ByteRow<'a> {
    packed: PackedRow<'a>,
    grid: (__m512, __m512i),
}

impl<'a, R: Fn(usize) -> PackedRow<'a> + Copy> Vectors for Bytes<R> {
    type Row = ByteRow<'a>;
    fn group(&self) -> usize {
        self.group
    }
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> ByteRow<'a> {
        // SAFETY: the caller's features.
        ByteRow { packed: (self.rows)(row), grid: unsafe { broadcast((0.0, 0)) } }
    }
    #[inline(always)]
    unsafe fn enter(&self, row: &mut ByteRow<'a>, group: usize) {
        // SAFETY: the caller's features.
        row.grid = unsafe { broadcast(grid(&row.packed, group)) };
    }
    #[inline(always)]
    unsafe fn weights(&self, row: &ByteRow<'a>, vector: usize) -> __m512 {
        // SAFETY: a vector is 16 bytes of the row.
        unsafe {
            let codes = _mm_loadu_si128(row.packed.words.as_ptr().cast::<u8>().add(vector * 16).cast());
            weights_of(_mm512_cvtepu8_epi32(codes), row.grid)
        }
    }
}
