//! Chains of the dot products that AVX-512 has for narrow numbers: bf16 pairs and int8 quads.

use std::arch::x86_64::*;

use super::chains::FACTORS;
use crate::isa::Isa;

/// `rounds` times `s_c += sum of 2 products` in 16 lanes of N chains; chain `c` starts at `c`.
pub(super) fn bf16<const N: usize>(isa: Isa, rounds: usize) -> (u64, f64) {
    assert!(isa.has_bf16(), "the caller asks the instruction set first");
    // SAFETY: the instruction set has bf16, and so all of AVX-512 that the function enables.
    let total = unsafe { bf16_chains::<N>(rounds) };
    ((rounds * N * 16 * 2 * 2) as u64, total)
}

/// `rounds` times `s_c += sum of 4 products` in 16 lanes of N chains; chain `c` starts at `c`.
pub(super) fn int8<const N: usize>(isa: Isa, rounds: usize) -> (u64, f64) {
    assert!(isa.has_vnni(), "the caller asks the instruction set first");
    // SAFETY: the instruction set has VNNI, and so all of AVX-512 that the function enables.
    let total = unsafe { int8_chains::<N>(rounds) };
    ((rounds * N * 16 * 4 * 2) as u64, total)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn bf16_chains<const N: usize>(rounds: usize) -> f64 {
    let splat = |v: i8| {
        let bits = half::bf16::from_f32(f32::from(v)).to_bits();
        // SAFETY: both are 512 bits without invalid patterns.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(bits as i16)) }
    };
    let (a, b) = (splat(FACTORS.0), splat(FACTORS.1));
    let mut sums: [__m512; N] = std::array::from_fn(|c| _mm512_set1_ps(c as f32));
    for _ in 0..rounds {
        for c in 0..N {
            sums[c] = _mm512_dpbf16_ps(sums[c], a, b);
        }
    }
    sums.into_iter().map(|s| f64::from(_mm512_reduce_add_ps(s))).sum()
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int8_chains<const N: usize>(rounds: usize) -> f64 {
    let (a, b) = (_mm512_set1_epi8(FACTORS.0), _mm512_set1_epi8(FACTORS.1));
    let mut sums: [__m512i; N] = std::array::from_fn(|c| _mm512_set1_epi32(c as i32));
    for _ in 0..rounds {
        for c in 0..N {
            sums[c] = _mm512_dpbusd_epi32(sums[c], a, b);
        }
    }
    sums.into_iter().map(|s| f64::from(_mm512_reduce_add_epi32(s))).sum()
}
