//! Buffers that start on a cache line: a vector load that crosses two lines costs two.

use crate::memory::OutOfMemory;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// 32 MiB: an idle thread holds no more.
const KEPT_LINES: usize = 1 << 19;

/// A cache line of plain numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; LINE]);

/// A plain number of which every bit pattern is a value.
///
/// # Safety
/// The type has no padding and no invalid bit pattern, and its size divides a line.
pub(crate) unsafe trait Plain: Copy + Send + Sync {
    const ZERO: Self;
}
// SAFETY: 4 bytes, all patterns valid.
unsafe impl Plain for f32 {
    const ZERO: Self = 0.0;
}
// SAFETY: 4 bytes, all patterns valid.
unsafe impl Plain for i32 {
    const ZERO: Self = 0;
}
// SAFETY: 2 bytes, all patterns valid.
unsafe impl Plain for u16 {
    const ZERO: Self = 0;
}
// SAFETY: 2 bytes, all patterns valid.
unsafe impl Plain for i16 {
    const ZERO: Self = 0;
}
// SAFETY: 1 byte, all patterns valid.
unsafe impl Plain for u8 {
    const ZERO: Self = 0;
}
// SAFETY: 1 byte, all patterns valid.
unsafe impl Plain for i8 {
    const ZERO: Self = 0;
}

/// Lines seen as numbers.
pub(crate) fn numbers<T: Plain>(lines: &[Line]) -> &[T] {
    let len = lines.len() * LINE / size_of::<T>();
    // SAFETY: the lines are `len` values of a plain type, initialised and aligned.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), len) }
}

/// Lines seen as numbers to write.
pub(crate) fn numbers_mut<T: Plain>(lines: &mut [Line]) -> &mut [T] {
    let len = lines.len() * LINE / size_of::<T>();
    // SAFETY: as in `numbers`, and borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}

/// Bytes that a prefetch runs ahead: a page. A hardware prefetcher stops at its end, and what waits
/// in an L1 cache of 32 KiB must not drive itself out.
pub(crate) const AHEAD: usize = 4 << 10;

/// Asks for what may lie at an address before it is needed; nothing else happens.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Lines for a row of `len` values: an odd number, so that rows do not fall on the
/// same sets of a cache.
pub(crate) fn row_lines<T>(len: usize) -> usize {
    (len * size_of::<T>()).div_ceil(LINE) | 1
}

/// Asks for all lines of some numbers: a short piece of memory ends before the CPU has seen a
/// pattern in how it is read.
pub(crate) fn prefetch_all<T: Copy>(numbers: &[T]) {
    for line in 0..size_of_val(numbers).div_ceil(LINE) {
        prefetch(numbers.as_ptr().cast::<u8>().wrapping_add(line * LINE));
    }
}

/// A buffer that only grows; what it holds is left over from the last use.
#[derive(Clone, Default)]
pub(crate) struct Aligned(Vec<Line>);

impl Aligned {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }
    /// Itself, if it is small enough to be kept until the next call; else nothing.
    pub(crate) fn kept(self) -> Self {
        if self.0.len() <= KEPT_LINES { self } else { Self::new() }
    }
    /// All lines.
    pub(crate) fn all(&self) -> &[Line] {
        &self.0
    }
    /// Lines there is room for.
    pub(crate) fn room(&self) -> usize {
        self.0.capacity()
    }
    /// Makes room for `count` lines, and no more, without a second allocation.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let none = |_| OutOfMemory { bytes: (count * LINE) as u64 };
        self.0.try_reserve_exact(count.saturating_sub(self.0.len())).map_err(none)
    }
    /// Zeros behind what it holds, up to `count` lines.
    pub(crate) fn extend(&mut self, count: usize) {
        if self.0.len() < count {
            self.0.resize(count, Line([0; LINE]));
        }
    }
    /// The first `count` lines.
    pub(crate) fn lines(&mut self, count: usize) -> &mut [Line] {
        self.extend(count);
        &mut self.0[..count]
    }
    /// The first `len` numbers.
    pub(crate) fn numbers<T: Plain>(&mut self, len: usize) -> &mut [T] {
        &mut numbers_mut(self.lines((len * size_of::<T>()).div_ceil(LINE)))[..len]
    }
}
