//! A matrix with any weights left out: one bit a weight says which are kept, and the kept ones
//! stand one after another. Knows no score and no pattern; N:M is a bitmap like any other.
//!
//! Row `j` keeps weight `i` if bit `i % 32` of word `i / 32` of the row is set; its kept weights
//! are `values[starts[j]..starts[j + 1]]`, by column. bf16, or symmetric integers of 8 or 4 bits
//! with `w = scale[j, i / group] * code`.
//!
//! At density d a weight takes `16 d + 1` bits, `8 d + 1` or `4 d + 1`, and scales. Rows are decoded and
//! multiplied as dense ones: skipping weights saves memory, never arithmetic.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod dots;
mod expand;
mod quantise;

use half::{bf16, f16};

use super::{PackError, RowSource};
use crate::isa::Isa;

/// Columns of a word of the bitmap.
pub const BITMAP_WORD: usize = 32;

/// The kept weights of all rows, one after another.
#[derive(Debug, Clone, PartialEq)]
pub enum BitmapData {
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// Signed integers of 8 bits.
    Int8 {
        /// Codes, one for each kept weight.
        codes: Vec<i8>,
        /// Scales `[rows, cols / group]`, rounded up.
        scales: Vec<f16>,
        /// Columns that share a scale: a multiple of 32, or all.
        group: usize,
    },
    /// Signed integers of 4 bits.
    Int4 {
        /// Two's complement codes, one for each kept weight, eight a word, the first in the lowest bits; zeros
        /// behind the last.
        words: Vec<u32>,
        /// Scales `[rows, cols / group]`, rounded up.
        scales: Vec<f16>,
        /// Columns that share a scale: a multiple of 32, or all.
        group: usize,
    },
}

/// How kept weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapKind {
    /// bfloat16.
    Bf16,
    /// Signed integers of 8 bits.
    Int8 {
        /// Columns that share a scale: a multiple of 32, or all.
        group: usize,
    },
    /// Signed integers of 4 bits.
    Int4 {
        /// Columns that share a scale: a multiple of 32, or all.
        group: usize,
    },
}

/// A matrix `[rows = out, cols = in]` of kept weights.
#[derive(Debug, Clone, PartialEq)]
pub struct BitmapMatrix {
    rows: usize,
    cols: usize,
    bits: Vec<u32>,   // [rows, cols / 32 rounded up]
    starts: Vec<u32>, // [rows + 1]
    data: BitmapData,
}

impl BitmapMatrix {
    /// Takes weights `[rows, cols]`, row-major, and which are kept; a kept weight may be zero.
    /// Integers are rounded to the nearest of a symmetric grid that reaches the largest kept
    /// weight of the group; one of 4 bits may end below it, where that makes the squared error less.
    ///
    /// # Errors
    /// Lengths that do not agree; 2^32 weights or more; a group that is no multiple of 32; for
    /// integers, a weight that is not finite or too large for an f16 scale.
    pub fn from_dense(
        shape: (usize, usize),
        weights: &[f32],
        kept: &[bool],
        kind: BitmapKind,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        if rows.checked_mul(cols) != Some(weights.len()) || kept.len() != weights.len() {
            let (weights, kept) = (weights.len(), kept.len());
            return Err(PackError(format!("{weights} weights, {kept} of them marked, for {rows}x{cols}")));
        }
        let (mut bits, mut starts) = (Vec::new(), vec![0]);
        let mut count = 0usize;
        for row in kept.chunks(cols.max(1)) {
            for kept in row.chunks(BITMAP_WORD) {
                let word = kept.iter().enumerate().fold(0, |word, (i, &kept)| word | u32::from(kept) << i);
                bits.push(word);
                count += word.count_ones() as usize;
            }
            starts.push(u32::try_from(count).map_err(|_| too_many(count))?);
        }
        let chosen = || weights.iter().zip(kept).filter(|(_, kept)| **kept).map(|(w, _)| *w);
        let data = match kind {
            BitmapKind::Bf16 => BitmapData::Bf16(chosen().map(bf16::from_f32).collect()),
            BitmapKind::Int8 { group } => {
                check_group(cols, group)?;
                quantise::to_int8((weights, kept), cols, group)?
            }
            BitmapKind::Int4 { group } => {
                check_group(cols, group)?;
                quantise::to_int4((weights, kept), cols, group)?
            }
        };
        Self::from_parts(shape, bits, starts, data)
    }

    /// Takes the parts as the accessors give them.
    ///
    /// # Errors
    /// Lengths that do not agree; a bit behind the last column; starts that are not the counts of
    /// bits; a group that is no multiple of 32; scales that are not finite.
    pub fn from_parts(
        (rows, cols): (usize, usize),
        bits: Vec<u32>,
        starts: Vec<u32>,
        data: BitmapData,
    ) -> Result<Self, PackError> {
        let per_row = cols.div_ceil(BITMAP_WORD);
        if cols == 0 || rows.checked_mul(per_row) != Some(bits.len()) {
            return Err(PackError(format!("{} words of bits for a {rows}x{cols} matrix", bits.len())));
        }
        if Some(starts.len()) != rows.checked_add(1) || starts[0] != 0 {
            return Err(PackError(format!("{} row starts for {rows} rows", starts.len())));
        }
        let behind = if cols.is_multiple_of(BITMAP_WORD) { 0 } else { u32::MAX << (cols % BITMAP_WORD) };
        for (row, (bits, starts)) in bits.chunks_exact(per_row).zip(starts.windows(2)).enumerate() {
            if bits[per_row - 1] & behind != 0 {
                return Err(PackError(format!("row {row} keeps a weight behind its {cols} columns")));
            }
            let count: u64 = bits.iter().map(|word| u64::from(word.count_ones())).sum();
            if u64::from(starts[0]) + count != u64::from(starts[1]) {
                return Err(PackError(format!("row {row} keeps {count} weights, its starts say otherwise")));
            }
        }
        check_data(&data, (rows, cols), starts[rows] as usize)?;
        Ok(Self { rows, cols, bits, starts, data })
    }

    /// Which weights are kept, `[rows, cols / 32 rounded up]`, least significant bit first.
    pub fn bits(&self) -> &[u32] {
        &self.bits
    }
    /// First kept weight of each row, and one more: `[rows + 1]`.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }
    /// The kept weights.
    pub fn data(&self) -> &BitmapData {
        &self.data
    }
    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        let data = match &self.data {
            BitmapData::Bf16(values) => values.len() * 2,
            BitmapData::Int8 { codes, scales, .. } => codes.len() + scales.len() * 2,
            BitmapData::Int4 { words, scales, .. } => words.len() * 4 + scales.len() * 2,
        };
        (self.bits.len() + self.starts.len()) * 4 + data
    }
    /// Share of the weights that are kept.
    pub fn density(&self) -> f64 {
        f64::from(self.starts[self.rows]) / (self.rows * self.cols).max(1) as f64
    }

    /// `decode_row` on a chosen instruction set; the bits are the same on all.
    pub fn decode_row_on(&self, isa: Isa, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let (bits, start) = self.row(row);
        match &self.data {
            BitmapData::Bf16(values) => expand::bf16_to_f32(isa, bits, &values[start..], out),
            BitmapData::Int8 { codes, scales, group } => {
                let scales = self.scales_of(row, scales, *group);
                expand::codes_to_f32(isa, bits, (&codes[..], start), scales, out);
            }
            BitmapData::Int4 { words, scales, group } => {
                let scales = self.scales_of(row, scales, *group);
                expand::codes_to_f32(isa, bits, (expand::Nibbles(words), start), scales, out);
            }
        }
    }

    /// Scales of a row, and columns that share one.
    fn scales_of<'a>(&self, row: usize, scales: &'a [f16], group: usize) -> (&'a [f16], usize) {
        let groups = self.cols.div_ceil(group);
        (&scales[row * groups..][..groups], group)
    }

    /// Words of a row, and its first kept weight.
    fn row(&self, row: usize) -> (&[u32], usize) {
        let per_row = self.cols.div_ceil(BITMAP_WORD);
        (&self.bits[row * per_row..][..per_row], self.starts[row] as usize)
    }
}

impl RowSource for BitmapMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.decode_row_on(Isa::ambient(), row, out);
    }
    fn decode_bf16(&self, isa: Isa, row: usize, out: &mut [bf16]) -> bool {
        assert!(row < self.rows && out.len() == self.cols);
        let BitmapData::Bf16(values) = &self.data else { return false };
        let (bits, start) = self.row(row);
        expand::bf16_to_bf16(isa, bits, &values[start..], out);
        true
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn dots(&self, isa: Isa, x: &[f32], rows: std::ops::Range<usize>, y: &mut [f32]) -> bool {
        assert!(x.len() == self.cols && rows.end <= self.rows && y.len() == rows.len());
        dots::f32(isa, self, x, rows, y)
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn dots_bf16(&self, isa: Isa, x: &[bf16], rows: std::ops::Range<usize>, y: &mut [f32]) -> bool {
        assert!(x.len() == self.cols && rows.end <= self.rows && y.len() == rows.len());
        dots::bf16(isa, self, x, rows, y)
    }
}

fn too_many(count: usize) -> PackError {
    PackError(format!("{count} kept weights: at most 2^32 - 1 can be counted"))
}

fn check_group(cols: usize, group: usize) -> Result<(), PackError> {
    // A word of the bitmap then has one scale.
    if group == 0 || group > cols || !(group == cols || group.is_multiple_of(BITMAP_WORD)) {
        return Err(PackError(format!("group of {group} for {cols} columns: a multiple of 32, or all")));
    }
    Ok(())
}

fn check_data(data: &BitmapData, (rows, cols): (usize, usize), kept: usize) -> Result<(), PackError> {
    let scaled = |scales: &[f16], group: usize| {
        check_group(cols, group)?;
        if rows.checked_mul(cols.div_ceil(group)) != Some(scales.len()) {
            return Err(PackError(format!("{} scales for groups of {group}", scales.len())));
        }
        if scales.iter().any(|s| !s.is_finite()) {
            return Err(PackError("a scale is not finite".into()));
        }
        Ok(())
    };
    let len = match data {
        BitmapData::Bf16(values) => values.len(),
        BitmapData::Int8 { codes, scales, group } => {
            scaled(scales, *group)?;
            codes.len()
        }
        BitmapData::Int4 { words, scales, group } => {
            scaled(scales, *group)?;
            if words.len() != kept.div_ceil(8) {
                return Err(PackError(format!("{} words of codes for {kept} kept weights", words.len())));
            }
            if !kept.is_multiple_of(8) && words[kept / 8] >> (kept % 8 * 4) != 0 {
                return Err(PackError("a code behind the last kept weight".into()));
            }
            kept
        }
    };
    if len == kept { Ok(()) } else { Err(PackError(format!("{len} values for {kept} kept weights"))) }
}

#[cfg(test)]
mod tests;
