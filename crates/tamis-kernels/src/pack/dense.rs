//! Dense rows: f32, f16 and bf16.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::dots::{Bf16, F16, dots};
use super::{PackError, RowSource};

/// A dense f32 matrix `[rows = out, cols = in]`, row-major; by default of no rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DenseF32 {
    cols: usize,
    data: Vec<f32>,
}

/// A borrowed f32 matrix `[rows = out, cols = in]`, row-major: a product of two
/// activations, or a tied embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct F32Rows<'a> {
    cols: usize,
    data: &'a [f32],
}

impl<'a> F32Rows<'a> {
    /// Views whole rows of `cols` values.
    pub fn new(cols: usize, data: &'a [f32]) -> Result<Self, PackError> {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        check(rows, cols, data.len())?;
        Ok(Self { cols, data })
    }
}

impl RowSource for F32Rows<'_> {
    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols..][..self.cols]);
    }
    fn as_f32(&self) -> Option<&[f32]> {
        Some(self.data)
    }
}

/// A dense matrix of 16-bit floats `[rows = out, cols = in]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseHalf {
    cols: usize,
    data: HalfData,
}

/// The two 16-bit float formats.
#[derive(Debug, Clone, PartialEq)]
pub enum HalfData {
    /// IEEE binary16.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

impl HalfData {
    fn len(&self) -> usize {
        match self {
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
        }
    }
}

fn check(rows: usize, cols: usize, len: usize) -> Result<(), PackError> {
    if cols > 0 && rows.checked_mul(cols) == Some(len) {
        return Ok(());
    }
    Err(PackError(format!("{len} values for a {rows}x{cols} matrix")))
}

impl DenseF32 {
    /// Takes `rows * cols` values, row-major.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self, PackError> {
        check(rows, cols, data.len())?;
        Ok(Self { cols, data })
    }
    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

impl DenseHalf {
    /// All values, row-major, where they are bfloat16.
    pub fn bf16_mut(&mut self) -> Option<&mut [bf16]> {
        match &mut self.data {
            HalfData::F16(_) => None,
            HalfData::Bf16(values) => Some(values),
        }
    }
    /// Takes `rows * cols` values, row-major.
    pub fn new(rows: usize, cols: usize, data: HalfData) -> Result<Self, PackError> {
        check(rows, cols, data.len())?;
        Ok(Self { cols, data })
    }
    /// All values, row-major.
    pub fn data(&self) -> &HalfData {
        &self.data
    }
}

impl RowSource for DenseF32 {
    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols..][..self.cols]);
    }
    fn as_f32(&self) -> Option<&[f32]> {
        Some(&self.data)
    }
}

impl RowSource for DenseHalf {
    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        let range = row * self.cols..(row + 1) * self.cols;
        match &self.data {
            // `half` picks the CPU's conversion instructions at run time.
            HalfData::F16(v) => v[range].convert_to_f32_slice(out),
            // A bf16 is the upper half of an f32.
            HalfData::Bf16(v) => {
                out.iter_mut()
                    .zip(&v[range])
                    .for_each(|(o, h)| *o = f32::from_bits(u32::from(h.to_bits()) << 16));
            }
        }
    }
    fn as_bf16(&self) -> Option<&[bf16]> {
        match &self.data {
            HalfData::F16(_) => None,
            HalfData::Bf16(v) => Some(v),
        }
    }
    fn decode_bf16(&self, _: crate::Isa, row: usize, out: &mut [bf16]) -> bool {
        let stored = self.as_bf16();
        if let Some(v) = stored {
            out.copy_from_slice(&v[row * self.cols..][..self.cols]);
        }
        stored.is_some()
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn dots(&self, isa: crate::Isa, x: &[f32], rows: std::ops::Range<usize>, y: &mut [f32]) -> bool {
        assert!(x.len() == self.cols && rows.end <= self.rows() && y.len() == rows.len());
        let (Some(token), true) = (isa.avx512(), self.cols.is_multiple_of(16)) else { return false };
        // SAFETY: the token proves the features.
        unsafe {
            match &self.data {
                HalfData::F16(v) => dots(token, F16(v, self.cols), x, rows, y),
                HalfData::Bf16(v) => dots(token, Bf16(v, self.cols), x, rows, y),
            }
        }
        true
    }
}
