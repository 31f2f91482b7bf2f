//! Which blocks of keys a query tile visits. Knows no arithmetic: whoever wants to leave
//! blocks out changes only this.

use std::ops::Range;

use crate::attention::blocks::{BLOCK, PAGE};

/// Positions in a chunk: sums start afresh at each, so that threads may take chunks of one
/// query. A page of the cache; little enough for short caches to be shared, and far more than the joining costs.
pub(super) const CHUNK: usize = PAGE;

/// Chunks that hold a visible position.
pub(super) fn chunks(seen: &Range<usize>) -> Range<usize> {
    seen.start / CHUNK..seen.end.div_ceil(CHUNK)
}

/// Blocks of one chunk that hold a visible position, in order.
pub(super) fn blocks(seen: &Range<usize>, chunk: usize) -> impl Iterator<Item = usize> {
    let first = seen.start.max(chunk * CHUNK) / BLOCK;
    first..seen.end.min((chunk + 1) * CHUNK).div_ceil(BLOCK)
}

/// The visible part of a block, counted from its first position; empty where there is none.
pub(super) fn within(seen: &Range<usize>, block: usize) -> Range<usize> {
    let inside = |position: usize| position.saturating_sub(block * BLOCK).min(BLOCK);
    inside(seen.start)..inside(seen.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_cover_what_is_seen_once_and_no_block_more() {
        for seen in [0..1, 0..64, 0..65, 63..64, 64..65, 200..300, 250..1030, 511..513] {
            let blocks: Vec<_> = chunks(&seen).flat_map(|chunk| blocks(&seen, chunk)).collect();
            let all: Vec<_> = (0..20).filter(|&block| !within(&seen, block).is_empty()).collect();
            assert_eq!(blocks, all);
            assert_eq!(blocks.iter().map(|&block| within(&seen, block).len()).sum::<usize>(), seen.len());
        }
        assert_eq!(blocks(&(0..1000), 0).chain(blocks(&(0..1000), 4)).count(), 4);
    }
}
