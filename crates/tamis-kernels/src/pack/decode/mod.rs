//! One row of packed codes to f32: `w[i] = scale[g] * (code[i] - zero[g])`, `g = i / group`.
//! An exact integer, converted exactly, and one rounding: the same bits on every
//! instruction set, by whichever way.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) mod avx512;
mod scalar;

use half::f16;

use crate::isa::Isa;

/// A row as `PackedMatrix` holds it; its constructor has checked all lengths.
#[derive(Clone, Copy)]
pub(super) struct PackedRow<'a> {
    /// Words from the row's first to the last of the matrix: loads may run on.
    pub(super) words: &'a [u32],
    pub(super) bits: u32,
    pub(super) group: usize,
    pub(super) scales: &'a [f16],
    pub(super) zeros: Option<&'a [u8]>,
}

impl PackedRow<'_> {
    /// Scale and zero of a group.
    #[inline(always)]
    fn grid(&self, group: usize) -> (f32, i32) {
        (self.scales[group].to_f32(), self.zero(group))
    }
    /// Zero code of a group.
    #[inline(always)]
    fn zero(&self, group: usize) -> i32 {
        self.zeros.map_or(1 << (self.bits - 1), |z| i32::from(z[group]))
    }
    /// Whether groups start at a vector of `lanes` codes.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn groups_start_at(&self, lanes: usize, cols: usize) -> bool {
        self.group.is_multiple_of(lanes) || self.group >= cols
    }
    /// The words as bytes: codes run from the least significant bit on.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn bytes(&self) -> &[u8] {
        // SAFETY: any bytes are valid, and x86 stores the low byte first.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), size_of_val(self.words)) }
    }
}

/// Writes the weights of a row.
pub(super) fn decode(isa: Isa, row: PackedRow<'_>, out: &mut [f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        if let (Some(_), true) = (isa.avx512(), row.groups_start_at(16, out.len())) {
            // SAFETY: the token proves the features that the function enables.
            return unsafe { avx512::decode(row, out) };
        }
        let has_avx2 = isa.avx2().is_some() || isa.avx512().is_some();
        if has_avx2 && row.groups_start_at(8, out.len()) {
            // SAFETY: as above; AVX-512 tokens are only given with AVX2.
            return unsafe { avx2::decode(row, out) };
        }
    }
    let _ = isa;
    scalar::decode(row, out);
}
