//! Memory that the system refuses. What may fail is [`tried`], and the caller hears of it. All other code, that of
//! dependencies too, cannot hear of it: for programs, [`Allocator`] then says what was wanted and ends the process.
//! Knows nothing of how much memory there is.

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::cell::Cell;

use bytemuck::Zeroable;

/// Exit code of a process that is out of memory.
pub const OUT_OF_MEMORY: i32 = 4;

thread_local! {
    /// How many [`tried`] calls this thread is in. Neither made on first use nor dropped: the allocator reads it.
    static TRIED: Cell<u32> = const { Cell::new(0) };
}

/// The system gives no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were asked for.
    pub bytes: u64,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "out of memory: {} bytes more were wanted", self.bytes)
    }
}

impl std::error::Error for OutOfMemory {}

impl OutOfMemory {
    /// Ends the process, as an allocation does that fails.
    pub(crate) fn give_up(self) -> ! {
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(isize::MAX as usize);
        handle_alloc_error(Layout::from_size_align(bytes, 1).expect("no more than there are addresses"))
    }
}

/// Calls `allocate`, which can do without the memory that it asks for: [`Allocator`] lets its allocations fail.
pub fn tried<R>(allocate: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            TRIED.set(TRIED.get() - 1);
        }
    }
    TRIED.set(TRIED.get() + 1);
    let _leave = Leave;
    allocate()
}

/// `count` zeros, of which none takes memory before it is written.
pub fn zeros<T: Zeroable>(count: usize) -> Result<Vec<T>, OutOfMemory> {
    let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
    tried(|| bytemuck::allocation::try_zeroed_vec(count)).map_err(|()| OutOfMemory { bytes })
}

/// The system's allocator, for a command: where it has no memory for what nobody tried, the process says so and ends
/// with [`OUT_OF_MEMORY`], instead of aborting. A library must not install it.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: every call is the system allocator's, with the caller's arguments and with its answer.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises.
        given(unsafe { System.alloc(layout) }, layout.size())
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    #[inline]
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: what the caller promises.
        given(unsafe { System.realloc(old, layout, size) }, size)
    }
    #[inline]
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: what the caller promises.
        unsafe { System.dealloc(old, layout) }
    }
}

#[inline]
fn given(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() {
        refused(bytes);
    }
    memory
}

/// Comes back where somebody tried. An allocator may not unwind, so that nothing else is left but to end: whatever
/// is on the disk is whole.
#[cold]
fn refused(bytes: usize) {
    #[cfg(all(unix, not(miri)))]
    if TRIED.get() == 0 {
        let mut buffer = [0; 320];
        let mut text = message(bytes, &mut buffer);
        while !text.is_empty() {
            // SAFETY: the bytes are there to be read.
            let written = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
            let Some(rest) = usize::try_from(written).ok().and_then(|n| text.get(n..)) else { break };
            text = rest;
        }
        // SAFETY: ends the process and runs nothing of it, which is sound anywhere.
        unsafe { libc::_exit(OUT_OF_MEMORY) };
    }
    #[cfg(not(all(unix, not(miri))))]
    let _ = bytes;
}

/// The last words, made without any memory but `buffer`.
#[cfg_attr(not(unix), expect(dead_code, reason = "elsewhere the standard library has the last word"))]
fn message(bytes: usize, buffer: &mut [u8; 320]) -> &[u8] {
    use std::io::Write;
    let mut left = &mut buffer[..];
    // What does not fit is cut off.
    let _ = write!(
        left,
        "\nerror: out of memory: {bytes} bytes more were wanted, and the system has none\n  next: free memory, raise \
         the limit (ulimit -v, cgroup), or choose smaller settings; what is written so far stays\n"
    );
    let written = 320 - left.len();
    &buffer[..written]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_and_fails_is_an_answer() {
        assert_eq!(zeros::<u32>(3), Ok(vec![0; 3]));
        assert_eq!(zeros::<u64>(0), Ok(vec![]));
        let most = isize::MAX as usize / 8;
        assert_eq!(zeros::<u64>(most), Err(OutOfMemory { bytes: most as u64 * 8 }));
        assert_eq!(zeros::<u64>(usize::MAX), Err(OutOfMemory { bytes: u64::MAX }));
        assert_eq!(TRIED.get(), 0);
    }

    #[test]
    fn the_last_words_are_whole() {
        let mut buffer = [0; 320];
        let text = std::str::from_utf8(message(usize::MAX, &mut buffer)).unwrap();
        assert!(text.contains("18446744073709551615 bytes") && text.ends_with("stays\n"), "{text}");
    }

    #[test]
    fn the_allocator_lets_fail_what_is_tried() {
        let layout = Layout::from_size_align(isize::MAX as usize / 2, 16).unwrap();
        // SAFETY: the layout has a size.
        assert!(tried(|| unsafe { Allocator.alloc_zeroed(layout) }).is_null());
        let layout = Layout::new::<u64>();
        // SAFETY: allocated and freed with one layout, and used in between alone.
        unsafe {
            let memory = Allocator.alloc(layout);
            memory.write_bytes(1, 8);
            let memory = Allocator.realloc(memory, layout, 16);
            assert_eq!(memory.read(), 1);
            Allocator.dealloc(memory, Layout::from_size_align(16, 8).unwrap());
        }
    }
}
