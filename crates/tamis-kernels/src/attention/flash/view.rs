//! One block of keys and values as the products want it: lines of 16-bit numbers.
//! int8 is decoded here, once for all rows of a tile.
//!
//! `k_t = scale_t c_t`, and a code is a bf16: so `q . k_t = scale_t (q . c_t)` and
//! `p_t v_t = (p_t scale_t) c_t`, and the codes themselves are multiplied.

use std::ops::Range;

use super::operand::Operand;
use super::visits::within;
use crate::aligned::{AHEAD, Aligned, prefetch};
use crate::attention::blocks::{BLOCK, Blocks, Piece};

/// Codes in a cache line.
const CODES: usize = 64;

/// Room for the lines of a block.
#[derive(Default)]
pub(super) struct Room {
    keys: Aligned,
    values: Aligned,
    hidden: Aligned,
    scales: Aligned,
}

impl Room {
    pub(super) const fn new() -> Self {
        Self { keys: Aligned::new(), values: Aligned::new(), hidden: Aligned::new(), scales: Aligned::new() }
    }
}

/// Lines of one head in one block, and a scale for each of its positions where they are codes.
pub(super) struct View<'a> {
    pub(super) block: usize,
    pub(super) keys: &'a [u16],
    pub(super) key_scales: Option<&'a [f32]>,
    pub(super) values: &'a [u16],
    pub(super) value_scales: Option<&'a [f32]>,
}

impl<'a> View<'a> {
    /// The block for rows that see `seen` of all positions.
    #[inline(always)]
    pub(super) fn of<O: Operand>(
        o: O,
        blocks: &'a Blocks,
        (block, head): (usize, usize),
        seen: &Range<usize>,
        room: &'a mut Room,
    ) -> Self {
        let (keys, key_scales) = widen(o, blocks.key_piece(block, head), &mut room.keys);
        let piece = blocks.value_piece(block, head);
        let (values, value_scales) = if blocks.finite() {
            widen(o, piece, &mut room.values)
        } else {
            let (lines, scales) = widen(o, piece, &mut room.values);
            hide(blocks, within(seen, block), (lines, scales), (&mut room.hidden, &mut room.scales))
        };
        Self { block, keys, key_scales, values, value_scales }
    }
}

/// Lines with zeros where the values are not seen: a weight of 0 does not hide what is not
/// finite. Of codes, only the scales can be that.
fn hide<'a>(
    blocks: &Blocks,
    seen: Range<usize>,
    (lines, scales): (&'a [u16], Option<&'a [f32]>),
    (clean_lines, clean_scales): (&'a mut Aligned, &'a mut Aligned),
) -> (&'a [u16], Option<&'a [f32]>) {
    let hidden = (0..BLOCK).filter(|position| !seen.contains(position));
    if let Some(scales) = scales {
        let clean = clean_scales.numbers(BLOCK);
        clean.copy_from_slice(scales);
        hidden.for_each(|position| clean[position] = 0.0);
        return (lines, Some(clean));
    }
    let clean = clean_lines.numbers(lines.len());
    clean.copy_from_slice(lines);
    hidden.for_each(|position| blocks.clear_value(clean, position));
    (clean, None)
}

/// Lines as they are, or codes as bf16.
#[inline(always)]
fn widen<'a, O: Operand>(
    o: O,
    piece: Piece<'a>,
    room: &'a mut Aligned,
) -> (&'a [u16], Option<&'a [f32]>) {
    match piece {
        Piece::Halves(lines) => (lines, None),
        Piece::Bytes(codes, scales) => {
            let lines = room.numbers(codes.len());
            for (to, from) in lines.chunks_exact_mut(CODES).zip(codes.chunks_exact(CODES)) {
                prefetch(from.as_ptr().wrapping_add(2 * AHEAD));
                o.widen(from, to);
            }
            (lines, Some(scales))
        }
    }
}
