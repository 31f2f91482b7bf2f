//! The block-quantised types of GGUF, kept in memory exactly as the file holds them.
//!
//! A row is a run of blocks of 32 weights (the plain types) or 256 (the K types); a
//! block carries its own f16 scales. Decoding follows ggml's `dequantize_row_*`
//! operation by operation in f32 (no fused multiply-add), so the decoded weights are
//! bit-equal to ggml's; `ggml_tests.rs` holds the golden blocks. Knows no file and no
//! tensor name; how K blocks are laid out is told in `ggml_k.rs`.
//!
//! Source: the block table of the GGUF specification (ggml `docs/gguf.md`).

use half::f16;

use super::ggml_k::{q2_k, q3_k, q4_k, q5_k, q6_k};
use super::{PackError, RowSource};

/// A block-quantised storage type of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    /// 4 bits, one scale, zero point 8.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, one scale, zero point 16.
    Q5_0,
    /// 5 bits, scale and minimum.
    Q5_1,
    /// 8 bits, one scale.
    Q8_0,
    /// 2 bits in groups of 16 with 4-bit scales and minima.
    Q2K,
    /// 3 bits in groups of 16 with 6-bit scales.
    Q3K,
    /// 4 bits in groups of 32 with 6-bit scales and minima.
    Q4K,
    /// 5 bits in groups of 32 with 6-bit scales and minima.
    Q5K,
    /// 6 bits in groups of 16 with 8-bit scales.
    Q6K,
}

/// What is fixed about a type.
struct Layout {
    name: &'static str,
    weights: usize,
    bytes: usize,
    /// Byte offsets of the f16 fields of a block.
    floats: &'static [usize],
}

impl GgmlType {
    /// Every type, in the order of the format's numbers.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    fn layout(self) -> Layout {
        let (name, weights, bytes, floats): (_, _, _, &[usize]) = match self {
            Self::Q4_0 => ("Q4_0", 32, 18, &[0]),
            Self::Q4_1 => ("Q4_1", 32, 20, &[0, 2]),
            Self::Q5_0 => ("Q5_0", 32, 22, &[0]),
            Self::Q5_1 => ("Q5_1", 32, 24, &[0, 2]),
            Self::Q8_0 => ("Q8_0", 32, 34, &[0]),
            Self::Q2K => ("Q2_K", 256, 84, &[80, 82]),
            Self::Q3K => ("Q3_K", 256, 110, &[108]),
            Self::Q4K => ("Q4_K", 256, 144, &[0, 2]),
            Self::Q5K => ("Q5_K", 256, 176, &[0, 2]),
            Self::Q6K => ("Q6_K", 256, 210, &[208]),
        };
        Layout { name, weights, bytes, floats }
    }
    /// The format's own spelling (`Q4_K`).
    pub fn name(self) -> &'static str {
        self.layout().name
    }
    /// Weights a block.
    pub fn block_weights(self) -> usize {
        self.layout().weights
    }
    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }
    /// Bytes of `weights` weights; none where they do not fill whole blocks.
    pub fn bytes_of(self, weights: usize) -> Option<usize> {
        let Layout { weights: block, bytes, .. } = self.layout();
        weights.is_multiple_of(block).then(|| (weights / block).checked_mul(bytes)).flatten()
    }
    /// Byte offset of the first NaN or infinite scale in whole blocks. Codes are
    /// integers, so a block with finite scales decodes to finite weights.
    pub fn first_non_finite(self, blocks: &[u8]) -> Option<usize> {
        let Layout { bytes, floats, .. } = self.layout();
        blocks.chunks_exact(bytes).enumerate().find_map(|(i, block)| {
            let bad = floats.iter().find(|&&at| !half_at(block, at).is_finite())?;
            Some(i * bytes + bad)
        })
    }
    /// Decodes whole blocks.
    fn decode(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Self::Q4_0 => each(blocks, out, q4_0),
            Self::Q4_1 => each(blocks, out, q4_1),
            Self::Q5_0 => each(blocks, out, q5_0),
            Self::Q5_1 => each(blocks, out, q5_1),
            Self::Q8_0 => each(blocks, out, q8_0),
            Self::Q2K => each(blocks, out, q2_k),
            Self::Q3K => each(blocks, out, q3_k),
            Self::Q4K => each(blocks, out, q4_k),
            Self::Q5K => each(blocks, out, q5_k),
            Self::Q6K => each(blocks, out, q6_k),
        }
    }
}

/// A matrix `[rows = out, cols = in]` in GGUF blocks, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct GgmlMatrix {
    kind: GgmlType,
    cols: usize,
    row_bytes: usize,
    data: Vec<u8>,
}

impl GgmlMatrix {
    /// Takes the blocks of `rows` rows of `cols` weights.
    pub fn new(kind: GgmlType, rows: usize, cols: usize, data: Vec<u8>) -> Result<Self, PackError> {
        let name = kind.name();
        let row_bytes = kind.bytes_of(cols).filter(|&bytes| bytes > 0).ok_or_else(|| {
            PackError(format!("a row of {cols} weights is not a whole number of {name} blocks"))
        })?;
        if rows.checked_mul(row_bytes) != Some(data.len()) {
            return Err(PackError(format!("{} bytes for {rows}x{cols} in {name}", data.len())));
        }
        Ok(Self { kind, cols, row_bytes, data })
    }
    /// Storage type.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }
    /// The blocks, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
    /// The `index`-th f16 field of a block of a row.
    pub(super) fn block_half(&self, row: usize, block: usize, index: usize) -> f16 {
        let Layout { bytes, floats, .. } = self.kind.layout();
        half_at(&self.data[row * self.row_bytes + block * bytes..], floats[index])
    }
    /// Writes the codes of a row of one of the plain types, `[cols]`; the signed codes of Q8_0
    /// plus 128.
    pub(super) fn codes_of_row(&self, row: usize, out: &mut [u8]) {
        let row = &self.data[row * self.row_bytes..][..self.row_bytes];
        for (block, out) in row.chunks_exact(self.kind.block_bytes()).zip(out.chunks_exact_mut(32)) {
            match self.kind {
                GgmlType::Q4_0 => halves_of(part(block, 2), 0, out),
                GgmlType::Q4_1 => halves_of(part(block, 4), 0, out),
                GgmlType::Q5_0 => halves_of(part(block, 6), u32::from_le_bytes(*part(block, 2)), out),
                GgmlType::Q5_1 => halves_of(part(block, 8), u32::from_le_bytes(*part(block, 4)), out),
                GgmlType::Q8_0 => out.iter_mut().zip(&block[2..]).for_each(|(out, code)| *out = code ^ 128),
                _ => panic!("{} has no single code a weight", self.kind.name()),
            }
        }
    }
    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

impl RowSource for GgmlMatrix {
    fn rows(&self) -> usize {
        self.data.len() / self.row_bytes
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        self.kind.decode(&self.data[row * self.row_bytes..][..self.row_bytes], out);
    }
}

fn each<const BYTES: usize, const N: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    let (blocks, _) = blocks.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<N>();
    blocks.iter().zip(out).for_each(|(block, out)| decode(block, out));
}

pub(super) fn half_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// The `N` bytes of a block from `at` on.
pub(super) fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block is longer than its parts")
}

/// The 32 codes of a block of 4 or 5 bits; bit j of `fifth` is the highest of weight j.
fn halves_of(codes: &[u8; 16], fifth: u32, out: &mut [u8]) {
    for j in 0..16 {
        out[j] = codes[j] & 15 | (fifth >> j << 4 & 16) as u8;
        out[j + 16] = codes[j] >> 4 | (fifth >> (j + 16) << 4 & 16) as u8;
    }
}

// Byte j of `codes` holds weight j in its low half and weight j + 16 in its high half.

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0).to_f32();
    let codes: &[u8; 16] = part(block, 2);
    for j in 0..16 {
        out[j] = (i32::from(codes[j] & 15) - 8) as f32 * d;
        out[j + 16] = (i32::from(codes[j] >> 4) - 8) as f32 * d;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32());
    let codes: &[u8; 16] = part(block, 4);
    for j in 0..16 {
        out[j] = i32::from(codes[j] & 15) as f32 * d + m;
        out[j + 16] = i32::from(codes[j] >> 4) as f32 * d + m;
    }
}

// The 5-bit types keep the fifth bits of all 32 weights in one little-endian word.

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0).to_f32();
    let high = u32::from_le_bytes(*part(block, 2));
    let codes: &[u8; 16] = part(block, 6);
    for j in 0..16 {
        let low_code = u32::from(codes[j] & 15) | (high >> j << 4 & 16);
        let high_code = u32::from(codes[j] >> 4) | (high >> (j + 12) & 16);
        out[j] = (low_code as i32 - 16) as f32 * d;
        out[j + 16] = (high_code as i32 - 16) as f32 * d;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32());
    let high = u32::from_le_bytes(*part(block, 4));
    let codes: &[u8; 16] = part(block, 8);
    for j in 0..16 {
        let low_code = u32::from(codes[j] & 15) | (high >> j << 4 & 16);
        let high_code = u32::from(codes[j] >> 4) | (high >> (j + 12) & 16);
        out[j] = low_code as f32 * d + m;
        out[j + 16] = high_code as f32 * d + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0).to_f32();
    let codes: &[u8; 32] = part(block, 2);
    for j in 0..32 {
        out[j] = f32::from(codes[j] as i8) * d;
    }
}

#[cfg(test)]
#[path = "ggml_tests.rs"]
mod tests;
