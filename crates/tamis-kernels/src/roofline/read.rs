//! Reading memory as fast as one core can: the largest value of a slice.

use crate::isa::per_isa;

/// Vectors in flight: enough to hide the latency of the maximum and to fill the load queue.
const VECTORS: usize = 8;
/// f32 that a prefetch runs ahead: 16 KiB. A hardware prefetcher stops at the end of a page of 4 KiB,
/// and what waits in an L1 cache of 32 KiB must not drive itself out.
const AHEAD: usize = 4096;

/// Asks for a cache line; no promise about the address is needed.
#[inline(always)]
fn prefetch(at: *const f32) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads nothing and never faults, and every x86-64 CPU has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

per_isa! {
    /// `max_i x_i`, minus infinity for no values.
    ///
    /// Eight independent maxima a step; the lines of a step far ahead are asked for.
    fn largest_on<L>(l, data: &[f32]) -> f32 {
        let mut most = [l.splat(f32::NEG_INFINITY); VECTORS];
        let step = VECTORS * L::WIDTH;
        let whole = data.chunks_exact(step);
        let rest = whole.remainder();
        for chunk in whole {
            for line in (0..step).step_by(16) {
                prefetch(chunk.as_ptr().wrapping_add(AHEAD + line));
            }
            for v in 0..VECTORS {
                most[v] = l.max(l.load(&chunk[v * L::WIDTH..]), most[v]);
            }
        }
        let mut all = most[0];
        for v in 1..VECTORS {
            all = l.max(most[v], all);
        }
        rest.iter().copied().fold(l.max_lane(all), f32::max)
    }
}

/// The largest value of `data`.
pub(super) fn largest(isa: crate::isa::Isa, data: &[f32]) -> f32 {
    largest_on(isa, data)
}
