//! How the codes of a block lie in its bytes. A block is 16 rows by 32 or 64 columns, that is
//! 8 or 16 quads of 64 codes.
//!
//! 8 bits: a quad is 64 bytes. 4 bits: two quads share 64 bytes, the even one in the low
//! halves; 2 bits: four quads. 3 and 5 bits: a plane of the low 2 or 4 bits, and behind
//! it a plane of the highest bit, where eight quads share 64 bytes.

use super::{QUAD, QUAD_BYTES, TILE};

/// Bits of all codes of a block, together in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plane {
    /// Bits of a code here.
    pub(super) width: u32,
    /// Where they stand in the code.
    pub(super) place: u32,
    /// Where the plane starts in a block, bytes.
    pub(super) start: usize,
}

/// The planes of codes of `bits` bits in blocks of `block` columns.
pub(super) fn planes(bits: u32, block: usize) -> impl Iterator<Item = Plane> {
    let low = if bits.is_power_of_two() { bits } else { bits - 1 };
    let first = Plane { width: low, place: 0, start: 0 };
    let high = Plane { width: bits - low, place: low, start: TILE * block * low as usize / 8 };
    [first, high].into_iter().take(if high.width > 0 { 2 } else { 1 })
}

/// The 64 bytes of a plane that hold a quad, and how far its codes are shifted there.
#[inline(always)]
pub(crate) const fn quad_of(width: u32, quad: usize) -> (usize, u32) {
    let shared = 8 / width as usize;
    (quad / shared * QUAD_BYTES, (quad % shared) as u32 * width)
}

impl Plane {
    fn mask(&self) -> u8 {
        ((1u32 << self.width) - 1) as u8
    }
    /// Adds this plane's bits of a quad to its codes.
    pub(super) fn read(&self, block: &[u8], quad: usize, out: &mut [u8; QUAD_BYTES]) {
        let (at, shift) = quad_of(self.width, quad);
        let bytes = block[self.start + at..].first_chunk::<QUAD_BYTES>().expect("whole quads");
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out |= (byte >> shift & self.mask()) << self.place;
        }
    }
    /// Puts this plane's bits of a quad into a block that is still zero there.
    pub(super) fn write(&self, block: &mut [u8], quad: usize, codes: &[u8; QUAD_BYTES]) {
        let (at, shift) = quad_of(self.width, quad);
        let bytes = block[self.start + at..].first_chunk_mut::<QUAD_BYTES>().expect("whole quads");
        for (byte, code) in bytes.iter_mut().zip(codes) {
            *byte |= (code >> self.place & self.mask()) << shift;
        }
    }
    /// This plane's bits of one code.
    pub(super) fn code(&self, block: &[u8], lane: usize, column: usize) -> u8 {
        let (at, shift) = quad_of(self.width, column / QUAD);
        let byte = block[self.start + at + lane * QUAD + column % QUAD];
        (byte >> shift & self.mask()) << self.place
    }
}
