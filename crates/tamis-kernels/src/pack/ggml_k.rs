//! Decoding of the K types of GGUF: blocks of 256 weights in groups of 16 or 32,
//! whose scales (and minima) are themselves small integers times one or two f16.
//! `w = (d * scale) * code - (dmin * min)`, in that order of f32 operations.
//!
//! Source: the block structures of ggml's `ggml-common.h`.

use super::ggml::{half_at, part};

/// `scales[16]` (low half scale, high half minimum), `codes[64]`, `d`, `dmin`.
/// Each run of 32 code bytes holds four planes of 2 bits.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let scales: &[u8; 16] = part(block, 0);
    let codes: &[u8; 64] = part(block, 16);
    let (d, dmin) = (half_at(block, 80).to_f32(), half_at(block, 82).to_f32());
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let min = dmin * f32::from(scales[group] >> 4);
        let (shift, codes) = plane(codes, group);
        for l in 0..16 {
            out[l] = scale * f32::from(codes[l] >> shift & 3) - min;
        }
    }
}

/// `high[32]`, `codes[64]`, `scales[12]`, `d`. The third bit of a weight is bit
/// `2^plane` of `high`; where it is clear, 4 is subtracted.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let high: &[u8; 32] = part(block, 0);
    let codes: &[u8; 64] = part(block, 32);
    let scales = scales_of_q3_k(part(block, 96));
    let d = half_at(block, 108).to_f32();
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group]);
        let (shift, codes) = plane(codes, group);
        let high: &[u8; 16] = part(high, group % 2 * 16);
        for l in 0..16 {
            let third = high[l] >> (group / 2) & 1;
            let code = (codes[l] >> shift & 3) as i8 - 4 * (1 - third as i8);
            out[l] = scale * f32::from(code);
        }
    }
}

/// Shift and bytes of a group of 16 two-bit codes: groups 2p and 2p + 1 are plane
/// `p % 4` of the first (p < 4) or second 32 bytes.
fn plane(codes: &[u8; 64], group: usize) -> (usize, &[u8; 16]) {
    (group / 2 % 4 * 2, part(codes, group / 8 * 32 + group % 2 * 16))
}

/// Sixteen 6-bit scales minus 32: low nibbles in bytes 0..8 (scales 0..8 in the low
/// halves, 8..16 in the high ones), two high bits of scale j in byte `8 + j % 4`.
fn scales_of_q3_k(bytes: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Scale and minimum `j` of the eight pairs of 6-bit numbers in Q4_K and Q5_K.
fn scale_min(bytes: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[j + 4] & 63)
    } else {
        (bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4, bytes[j + 4] >> 4 | bytes[j] >> 6 << 4)
    }
}

/// `d`, `dmin`, `scales[12]`, `codes[128]`: 32 code bytes hold 64 weights, the first
/// 32 in the low halves.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32());
    let scales: &[u8; 12] = part(block, 4);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(scales, group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let codes: &[u8; 32] = part(block, 16 + group / 2 * 32);
        let shift = group % 2 * 4;
        for l in 0..32 {
            out[l] = scale * f32::from(codes[l] >> shift & 15) - min;
        }
    }
}

/// As Q4_K with `high[32]` before the codes: bit `group` of byte l is the fifth bit.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32());
    let scales: &[u8; 12] = part(block, 4);
    let high: &[u8; 32] = part(block, 16);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(scales, group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let codes: &[u8; 32] = part(block, 48 + group / 2 * 32);
        let shift = group % 2 * 4;
        for l in 0..32 {
            let code = codes[l] >> shift & 15 | (high[l] >> group & 1) << 4;
            out[l] = scale * f32::from(code) - min;
        }
    }
}

/// `low[128]`, `high[64]`, `scales[16]` (i8), `d`; codes are 6 bits minus 32. Each half
/// of 128 weights takes 64 low bytes and 32 high bytes: quarter q of it is nibble
/// `q / 2` of low bytes `q % 2 * 32..` and bits `2q..2q+2` of the high bytes.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208).to_f32();
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, quarter, side) = (group / 8, group / 2 % 4, group % 2);
        let low: &[u8; 16] = part(block, half * 64 + quarter % 2 * 32 + side * 16);
        let high: &[u8; 16] = part(block, 128 + half * 32 + side * 16);
        let scale = d * f32::from(block[192 + group] as i8);
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        for l in 0..16 {
            let code = low[l] >> low_shift & 15 | (high[l] >> high_shift & 3) << 4;
            out[l] = scale * f32::from(code as i8 - 32);
        }
    }
}
