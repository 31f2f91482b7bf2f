//! One block of keys and values as the products want it.
//!
//! Where they are codes, `k_t = scale_t c_t`: so `q . k_t = scale_t (q . c_t)` and
//! `p_t v_t = (p_t scale_t) c_t`, and the codes themselves are multiplied.

use std::ops::Range;

use super::operand::Operand;
use super::visits::within;
use crate::aligned::Aligned;
use crate::attention::blocks::{BLOCK, Blocks, Piece};
use crate::lanes::Lanes;

/// Room for the lines of a block.
#[derive(Default)]
pub(super) struct Room {
    keys: Aligned,
    values: Aligned,
    hidden: Aligned,
}

impl Room {
    pub(super) const fn new() -> Self {
        Self { keys: Aligned::new(), values: Aligned::new(), hidden: Aligned::new() }
    }
}

/// Lines of one head in one block, and a scale for each of its positions where they are codes.
pub(super) struct View<'a, S> {
    pub(super) block: usize,
    pub(super) keys: &'a [S],
    pub(super) key_scales: Option<&'a [f32]>,
    pub(super) values: &'a [S],
    pub(super) value_scales: Option<&'a [f32]>,
    /// The largest of `value_scales`, where weights are whole numbers.
    largest: f32,
}

impl<'a, S> View<'a, S> {
    /// The block for rows that see `seen` of all positions.
    #[inline(always)]
    pub(super) fn of<O: Operand<Stored = S>>(
        o: O,
        blocks: &'a Blocks,
        (block, head): (usize, usize),
        seen: &Range<usize>,
        room: &'a mut Room,
    ) -> Self {
        let (keys, key_scales) = o.lines(blocks.key_piece(block, head), &mut room.keys);
        let mut piece = blocks.value_piece(block, head);
        if !blocks.finite() {
            piece = hide(blocks, within(seen, block), piece, &mut room.hidden);
        }
        let (values, value_scales) = o.lines(piece, &mut room.values);
        let largest = match (O::WHOLE, value_scales) {
            (Some(_), Some(scales)) => most(o.sums(), scales),
            _ => 0.0,
        };
        Self { block, keys, key_scales, values, value_scales, largest }
    }

    /// What weights times scales are whole numbers of, where a row sees `seen` of the block; 1 where they
    /// are not whole. What is not seen must not reach it.
    #[inline(always)]
    pub(super) fn unit<O: Operand>(&self, seen: Range<usize>) -> f32 {
        match (O::WHOLE, self.value_scales) {
            (Some(whole), Some(_)) if seen.len() == BLOCK => self.largest / whole,
            (Some(whole), Some(scales)) => {
                let larger = |most: f32, &scale: &f32| if scale <= most { most } else { scale + 0.0 * most };
                scales[seen].iter().fold(0.0, larger) / whole
            }
            _ => 1.0,
        }
    }
}

/// The largest scale; NaN where one is NaN.
#[inline(always)]
fn most<L: Lanes>(l: L, scales: &[f32]) -> f32 {
    let (mut most, mut poison) = (l.splat(0.0), l.splat(0.0));
    for scales in scales.chunks_exact(L::WIDTH) {
        let scales = l.load(scales);
        most = l.max(scales, most);
        poison = l.fma(scales, l.splat(0.0), poison);
    }
    l.max_lane(most) + l.sum(poison)
}

/// Numbers with zeros where they are not seen: a weight of 0 does not hide what is not finite. Of
/// codes, only the scales can be that.
fn hide<'a>(blocks: &Blocks, seen: Range<usize>, piece: Piece<'a>, room: &'a mut Aligned) -> Piece<'a> {
    let hidden = (0..BLOCK).filter(|position| !seen.contains(position));
    match piece {
        Piece::Bytes(codes, scales) => {
            let clean = room.numbers(BLOCK);
            clean.copy_from_slice(scales);
            hidden.for_each(|position| clean[position] = 0.0);
            Piece::Bytes(codes, clean)
        }
        Piece::Halves(lines) => {
            let clean = room.numbers(lines.len());
            clean.copy_from_slice(lines);
            hidden.for_each(|position| blocks.clear_value(clean, position));
            Piece::Halves(clean)
        }
    }
}
