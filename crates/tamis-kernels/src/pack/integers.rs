//! Group-quantised integers, 2 to 8 bits, in the bit order of compressed-tensors
//! `pack-quantized`: codes run along the input dimension, least significant bits
//! first, 32 codes in exactly `bits` words of 32 bits, each row padded to whole words.
//!
//! `w[o, i] = scale[o, g] * (code[o, i] - zero[o, g])`, `g = i / group`; a symmetric
//! matrix has `zero = 2^(bits-1)` everywhere and stores none.

use half::f16;

#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::decode::avx512::{Bytes, Tables};
use super::decode::{PackedRow, decode};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::dots::dots;
use super::{PackError, RowSource};
use crate::isa::Isa;

/// A quantised matrix `[rows = out, cols = in]`. The last group of a row may be short.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    bits: u32,
    group: usize,
    words: Vec<u32>,        // [rows, packed_words(cols, bits)]
    scales: Vec<f16>,       // [rows, groups]
    zeros: Option<Vec<u8>>, // [rows, groups], codes
}

/// 32-bit words that one row of `cols` codes takes.
pub fn packed_words(cols: usize, bits: u32) -> usize {
    (cols * bits as usize).div_ceil(32)
}

impl PackedMatrix {
    /// Packs codes `[rows, cols]` (one a byte, `< 2^bits`), scales `[rows, groups]` and,
    /// for an asymmetric grid, zero codes `[rows, groups]`. `group == cols` means per row.
    pub fn from_codes(
        shape: (usize, usize),
        bits: u32,
        group: usize,
        codes: &[u8],
        scales: Vec<f16>,
        zeros: Option<Vec<u8>>,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        if Some(codes.len()) != rows.checked_mul(cols) {
            return Err(PackError(format!("{} codes for a {rows}x{cols} matrix", codes.len())));
        }
        if !(1..=8).contains(&bits) || codes.iter().any(|&c| u32::from(c) >> bits != 0) {
            return Err(PackError(format!("a code does not fit in {bits} bits")));
        }
        let per_row = packed_words(cols, bits);
        let mut words = vec![0u32; rows * per_row];
        for (row, out) in codes.chunks_exact(cols.max(1)).zip(words.chunks_exact_mut(per_row.max(1))) {
            for (i, &code) in row.iter().enumerate() {
                let bit = i * bits as usize;
                let wide = u64::from(code) << (bit % 32);
                out[bit / 32] |= wide as u32;
                if wide >> 32 != 0 {
                    out[bit / 32 + 1] |= (wide >> 32) as u32;
                }
            }
        }
        Self::from_words(shape, bits, group, words, scales, zeros)
    }

    /// Takes words that are already packed (see the module text for the layout).
    pub fn from_words(
        shape: (usize, usize),
        bits: u32,
        group: usize,
        words: Vec<u32>,
        scales: Vec<f16>,
        zeros: Option<Vec<u8>>,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        if !matches!(bits, 2 | 3 | 4 | 8) {
            return Err(PackError(format!("{bits} bits: only 2, 3, 4 and 8 are supported")));
        }
        if group == 0 || group > cols {
            return Err(PackError(format!("group of {group} for {cols} input features")));
        }
        let groups = rows.checked_mul(cols.div_ceil(group));
        if Some(words.len()) != rows.checked_mul(packed_words(cols, bits)) {
            return Err(PackError(format!("{} words for {rows}x{cols} at {bits} bits", words.len())));
        }
        if Some(scales.len()) != groups || zeros.as_ref().is_some_and(|z| Some(z.len()) != groups) {
            return Err(PackError(format!("{} scales for {groups:?} groups", scales.len())));
        }
        if zeros.iter().flatten().any(|&z| u32::from(z) >> bits != 0) {
            return Err(PackError(format!("a zero point does not fit in {bits} bits")));
        }
        Ok(Self { rows, cols, bits, group, words, scales, zeros })
    }

    /// Bits a code.
    pub fn bits(&self) -> u32 {
        self.bits
    }
    /// Input features that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }
    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group)
    }
    /// Packed codes, `[rows, packed_words(cols, bits)]`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
    /// Scales, `[rows, groups]`.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }
    /// Zero codes `[rows, groups]`; none for a symmetric grid.
    pub fn zeros(&self) -> Option<&[u8]> {
        self.zeros.as_deref()
    }
    /// Bytes of codes, scales and zero points.
    pub fn bytes(&self) -> usize {
        self.words.len() * 4 + self.scales.len() * 2 + self.zeros.as_ref().map_or(0, Vec::len)
    }

    /// `decode_row` on a chosen instruction set; the bits are the same on all.
    pub fn decode_row_on(&self, isa: Isa, row: usize, out: &mut [f32]) {
        assert!(out.len() == self.cols);
        decode(isa, self.packed_row(row), out);
    }

    fn packed_row(&self, row: usize) -> PackedRow<'_> {
        assert!(row < self.rows);
        let groups = self.groups();
        PackedRow {
            words: &self.words[row * packed_words(self.cols, self.bits)..],
            bits: self.bits,
            group: self.group,
            scales: &self.scales[row * groups..][..groups],
            zeros: self.zeros.as_ref().map(|z| &z[row * groups..][..groups]),
        }
    }

    /// Rows, of those up to `end`, at whose every vector of 16 codes eight bytes can be read.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn end_of_safe_rows(&self, end: usize) -> usize {
        let row_bytes = packed_words(self.cols, self.bits) * 4;
        let last_vector = (self.cols / 16 - 1) * 2 * self.bits as usize;
        let bytes = self.words.len() * 4;
        let safe = (bytes + row_bytes).checked_sub(last_vector + 8).map_or(0, |room| room / row_bytes);
        end.min(safe)
    }

    /// Writes the codes of a row, `[cols]`.
    pub(super) fn codes_of_row(&self, row: usize, out: &mut [u8]) {
        let words = &self.words[row * packed_words(self.cols, self.bits)..];
        match self.bits {
            2 => unpack_codes::<2>(words, out),
            3 => unpack_codes::<3>(words, out),
            4 => unpack_codes::<4>(words, out),
            _ => unpack_codes::<8>(words, out),
        }
    }

    /// Code of one weight.
    pub fn code(&self, row: usize, col: usize) -> u8 {
        let words = &self.words[row * packed_words(self.cols, self.bits)..];
        let bit = col * self.bits as usize;
        let low = u64::from(words[bit / 32]) >> (bit % 32);
        let straddles = bit % 32 + self.bits as usize > 32;
        let high = if straddles { u64::from(words[bit / 32 + 1]) << (32 - bit % 32) } else { 0 };
        ((low | high) & ((1 << self.bits) - 1)) as u8
    }
}

/// 32 codes are exactly `BITS` words, so all shifts are known to the compiler.
fn unpack_codes<const BITS: usize>(words: &[u32], out: &mut [u8]) {
    for (words, out) in words.chunks(BITS).zip(out.chunks_mut(32)) {
        let mut padded = [0u32; BITS];
        padded[..words.len()].copy_from_slice(words);
        let mut codes = [0u8; 32];
        for i in 0..32 {
            let (word, shift) = (i * BITS / 32, i * BITS % 32);
            let low = padded[word] >> shift;
            let high = if shift + BITS > 32 { padded[word + 1] << (32 - shift) } else { 0 };
            codes[i] = ((low | high) & ((1 << BITS) - 1)) as u8;
        }
        out.copy_from_slice(&codes[..out.len()]);
    }
}

impl RowSource for PackedMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.decode_row_on(Isa::ambient(), row, out);
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn dots(&self, isa: crate::Isa, x: &[f32], rows: std::ops::Range<usize>, y: &mut [f32]) -> bool {
        assert!(x.len() == self.cols && rows.end <= self.rows && y.len() == rows.len());
        let whole = self.group.is_multiple_of(16) || self.group >= self.cols;
        let (Some(token), true) = (isa.avx512(), whole && self.cols.is_multiple_of(16)) else {
            return false;
        };
        // The last rows of the matrix, where eight bytes are not left, are read from a padded copy.
        let safe = self.end_of_safe_rows(rows.end).max(rows.start);
        let per_row = packed_words(self.cols, self.bits);
        let mut rest = Vec::new();
        if safe < rows.end {
            rest.extend_from_slice(&self.words[safe * per_row..rows.end * per_row]);
            rest.extend([0; 2]);
        }
        let group = self.group.div_ceil(16);
        let row = |row: usize| {
            let packed = self.packed_row(row);
            let words = if row < safe { packed.words } else { &rest[(row - safe) * per_row..] };
            PackedRow { words, ..packed }
        };
        // SAFETY: the token proves the features; eight bytes can be read at every vector.
        unsafe {
            match self.bits {
                2 => dots(token, Tables::<2, _>::new(group, row), x, rows, y),
                3 => dots(token, Tables::<3, _>::new(group, row), x, rows, y),
                4 => dots(token, Tables::<4, _>::new(group, row), x, rows, y),
                _ => dots(token, Bytes { rows: row, group }, x, rows, y),
            }
        }
        true
    }
}
