//! Eight codes a step. They are `bits` bytes, at most 32 bits: one word is broadcast
//! and every lane shifts its own code down.

use std::arch::x86_64::*;

use super::PackedRow;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode(row: PackedRow<'_>, out: &mut [f32]) {
    match row.bits {
        2 => groups::<2>(row, out),
        3 => groups::<3>(row, out),
        4 => groups::<4>(row, out),
        _ => groups::<8>(row, out),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn groups<const BITS: usize>(row: PackedRow<'_>, out: &mut [f32]) {
    let bytes = row.bytes();
    let mut at = 0;
    for (group, out) in out.chunks_mut(row.group).enumerate() {
        let (scale, zero) = row.grid(group);
        let (scales, zeros) = (_mm256_set1_ps(scale), _mm256_set1_epi32(zero));
        for out in out.chunks_mut(8) {
            let codes = codes::<BITS>(&bytes[at..]);
            let w = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, zeros)));
            let mut lanes = [0.0f32; 8];
            let to = if out.len() == 8 { out.as_mut_ptr() } else { lanes.as_mut_ptr() };
            // SAFETY: both have room for 8 values.
            unsafe { _mm256_storeu_ps(to, w) };
            if out.len() < 8 {
                out.copy_from_slice(&lanes[..out.len()]);
            }
            at += BITS;
        }
    }
}

/// The eight codes that start the bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn codes<const BITS: usize>(bytes: &[u8]) -> __m256i {
    let mut first = [0u8; 8];
    if bytes.len() >= 8 {
        first.copy_from_slice(&bytes[..8]);
    } else {
        first[..bytes.len()].copy_from_slice(bytes);
    }
    let word = i64::from_le_bytes(first);
    if BITS == 8 {
        return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(word));
    }
    let bits = BITS as i32;
    let step = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bits));
    let shifted = _mm256_srlv_epi32(_mm256_set1_epi32(word as i32), step);
    _mm256_and_si256(shifted, _mm256_set1_epi32((1 << bits) - 1))
}
