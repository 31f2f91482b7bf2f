//! Memory that stays and is read from end to end: weights and caches, laid side by side in
//! regions for which the system is asked for huge pages (Linux: `MADV_HUGEPAGE`).
//!
//! With pages of 4 KiB a token walks through a page table for every 64 lines of its weights, and
//! in a virtual machine through two tables. A linear of a small model is less than one huge
//! page of 2 MiB, so a region holds many of them. Where the system gives no huge pages, a
//! region is plain memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::aligned::Line;
use crate::memory::{OutOfMemory, tried};

const HUGE_PAGE: usize = 2 << 20;
/// Bytes of a region; memory that nobody has touched yet is not taken from the system.
const REGION: usize = 64 << 20;

/// The region that is being filled, and how many of its lines are given out. It is freed with its last slab.
static OPEN: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));

/// A fixed number of lines, zeros at first.
pub(crate) struct Slab {
    start: NonNull<Line>,
    len: usize,
    /// What keeps the lines alive; nothing for no lines.
    _region: Option<Arc<Region>>,
}

// SAFETY: a slab alone owns its lines, which are plain numbers.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// `len` lines of zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::take(len).unwrap_or_else(|none| none.give_up())
    }

    /// `len` lines of zeros, where there is memory for them; see [`tried`].
    pub(crate) fn take(len: usize) -> Result<Self, OutOfMemory> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len, _region: None });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, first) = match open.0.upgrade().filter(|region| region.lines - open.1 >= len) {
            Some(region) => (region, open.1),
            None => {
                // Where there is no memory for others to come, there may be some for this one.
                let large = tried(|| Region::new(len.max(REGION / size_of::<Line>())));
                (Arc::new(large.or_else(|_| Region::new(len))?), 0)
            }
        };
        *open = (Arc::downgrade(&region), first + len);
        // SAFETY: the region has the lines from `first` on, and gives them out once.
        let start = unsafe { region.start.add(first) };
        Ok(Self { start, len, _region: Some(region) })
    }
}

impl Deref for Slab {
    type Target = [Line];
    fn deref(&self) -> &[Line] {
        // SAFETY: `len` initialised lines that this slab owns, or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Slab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines", self.len)
    }
}

impl Clone for Slab {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

/// Zeroed memory that starts on a huge page.
struct Region {
    block: NonNull<u8>,
    layout: Layout,
    start: NonNull<Line>,
    lines: usize,
}

// SAFETY: the region itself reads and writes nothing.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(lines: usize) -> Result<Self, OutOfMemory> {
        let none = OutOfMemory { bytes: (lines as u64).saturating_mul(size_of::<Line>() as u64) };
        let bytes = lines.checked_mul(size_of::<Line>()).and_then(|bytes| bytes.checked_add(HUGE_PAGE));
        // The allocator's own alignment: of another it would write every zero itself, at once.
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, 1).ok()).ok_or(none)?;
        // SAFETY: the layout is larger than a huge page.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(none)?;
        let skipped = block.as_ptr().align_offset(HUGE_PAGE);
        let skipped = if skipped < HUGE_PAGE { skipped } else { 0 };
        // SAFETY: less than the huge page that the block has more than its lines.
        let start = unsafe { block.add(skipped) };
        ask_for_huge_pages(start, layout.size() - HUGE_PAGE);
        Ok(Self { block, layout, start: start.cast(), lines })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

/// Advice only: it changes no byte, and whether it was followed shows in time alone.
fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the range lies in one live allocation and starts on a page; the advice changes nothing.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = (start, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::{numbers, numbers_mut};

    #[test]
    fn slabs_are_zero_aligned_and_apart() {
        let sizes = [1, 3, 0, 100, 5000, REGION / size_of::<Line>() + 1, 7];
        let mut slabs: Vec<Slab> = sizes.into_iter().map(Slab::zeroed).collect();
        for (i, slab) in slabs.iter_mut().enumerate() {
            assert_eq!((slab.len(), slab.as_ptr().align_offset(size_of::<Line>())), (sizes[i], 0));
            let ends = [0, slab.len() * size_of::<Line>()].map(|end| end.saturating_sub(1));
            let bytes = numbers_mut::<u8>(slab);
            if !bytes.is_empty() {
                assert!(ends.iter().all(|&end| bytes[end] == 0));
                bytes.fill(i as u8 + 1);
            }
        }
        for (i, slab) in slabs.iter().enumerate() {
            assert!(numbers::<u8>(slab).iter().all(|&byte| byte == i as u8 + 1));
            assert_eq!(numbers::<u8>(&slab.clone()), numbers::<u8>(slab));
        }
    }

    #[test]
    fn threads_take_slabs_at_once() {
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for len in 1..60 {
                        let mut slab = Slab::zeroed(len);
                        numbers_mut::<u8>(&mut slab).fill(thread);
                        kept.push(slab);
                    }
                    assert!(kept.iter().all(|slab| numbers::<u8>(slab).iter().all(|&byte| byte == thread)));
                });
            }
        });
    }
}
