//! One block of keys and values as the products want it: lines of 16-bit numbers.
//! int8 is decoded here, once for all rows of a tile.
//!
//! `k_t = scale_t c_t`, and a code is a bf16: so `q . k_t = scale_t (q . c_t)` and
//! `p_t v_t = (p_t scale_t) c_t`, and the codes themselves are multiplied.

use std::ops::Range;

use super::visits::within;
use crate::aligned::Aligned;
use crate::attention::blocks::{BLOCK, Blocks, Piece};

/// Room for the lines of a block.
#[derive(Default)]
pub(super) struct Room {
    keys: Aligned,
    values: Aligned,
    scales: Aligned,
}

impl Room {
    pub(super) const fn new() -> Self {
        Self { keys: Aligned::new(), values: Aligned::new(), scales: Aligned::new() }
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
    pub(super) fn of(
        blocks: &'a Blocks,
        (block, head): (usize, usize),
        seen: &Range<usize>,
        room: &'a mut Room,
    ) -> Self {
        let (keys, key_scales) = widen(blocks.key_piece(block, head), &mut room.keys);
        let piece = blocks.value_piece(block, head);
        let (values, value_scales) = if blocks.finite() {
            widen(piece, &mut room.values)
        } else {
            hide(blocks, piece, within(seen, block), (&mut room.values, &mut room.scales))
        };
        Self { block, keys, key_scales, values, value_scales }
    }
}

/// Lines with zeros where the values are not seen: a weight of 0 does not hide what is not
/// finite. Of codes, only the scales can be that.
fn hide<'a>(
    blocks: &Blocks,
    piece: Piece<'a>,
    seen: Range<usize>,
    (lines, scales): (&'a mut Aligned, &'a mut Aligned),
) -> (&'a [u16], Option<&'a [f32]>) {
    let hidden = (0..BLOCK).filter(|position| !seen.contains(position));
    match piece {
        Piece::Halves(from) => {
            let lines = lines.numbers(from.len());
            lines.copy_from_slice(from);
            hidden.for_each(|position| blocks.clear_value(lines, position));
            (lines, None)
        }
        Piece::Bytes(_, from) => {
            let scales = scales.numbers(BLOCK);
            scales.copy_from_slice(from);
            hidden.for_each(|position| scales[position] = 0.0);
            (widen(piece, lines).0, Some(scales))
        }
    }
}

/// Lines as they are, or codes as bf16.
#[inline(always)]
fn widen<'a>(piece: Piece<'a>, room: &'a mut Aligned) -> (&'a [u16], Option<&'a [f32]>) {
    match piece {
        Piece::Halves(lines) => (lines, None),
        Piece::Bytes(codes, scales) => {
            let lines = room.numbers(codes.len());
            for (line, code) in lines.iter_mut().zip(codes) {
                *line = (f32::from(*code).to_bits() >> 16) as u16;
            }
            (lines, Some(scales))
        }
    }
}
