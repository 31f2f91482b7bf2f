//! Keys and values of one layer in 16 or 8 bits, in blocks of 64 positions. Knows no
//! length and no arithmetic of attention.
//!
//! Four blocks of one head make a *page*, `[block][keys, values]`: what one task reads is one
//! piece of memory, and a cache grows page by page without moving anything.
//!
//! A line of 64 bytes holds two steps of a dot product for 16 columns, so that products
//! are multiply-adds of whole lines and no vector is ever summed across:
//!
//! * keys: `[4 x 16 positions][d / 2]` lines of two `d`, 16 positions;
//! * values: `[2 x 32 positions][d / 16][16]` lines of two positions, 16 `d`.
//!
//! bf16 and int8 interleave the two steps number by number, as `vdpbf16ps` and the tiles
//! of AMX want them; f16, which has no such product, keeps them one after the other. A
//! line of int8 takes 32 bytes; one f32 scale for each position and head, the largest
//! magnitude divided by 127, lies behind the codes of the block.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::rows::Rows;
use crate::aligned::{Line, numbers, numbers_mut};
use crate::memory::OutOfMemory;
use crate::slab::Slab;

/// Positions in a block.
pub(super) const BLOCK: usize = 64;
/// Positions in a page.
pub(super) const PAGE: usize = 4 * BLOCK;
/// Numbers in a line: two steps of 16 columns.
pub(super) const PAIR_LINE: usize = 32;

/// Added and taken away, it leaves a small number rounded to a whole one, ties to even.
const WHOLE: f32 = 1.5 * (1 << 23) as f32;

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Bf16,
    F16,
    Int8,
}

/// How keys or values lie in their piece of a block, which is whole lines.
#[derive(Clone, Copy)]
struct Side {
    order: Order,
    /// Width of a head with its padding.
    padded: usize,
}

/// Which index runs over the columns of a line, and which over its steps.
#[derive(Clone, Copy)]
enum Order {
    /// Columns are positions.
    Keys,
    /// Columns are `d`.
    Values,
}

/// Keys and values, compact.
#[derive(Clone)]
pub(super) struct Blocks {
    pub(super) code: Code,
    kv_heads: usize,
    head_dim: usize,
    keys: Side,
    values: Side,
    /// `[position / PAGE][head]`.
    pages: Vec<Slab>,
    /// Whether every value ever stored is finite: then a weight of 0 hides it.
    finite: bool,
}

/// The numbers of one head in one block, and an int8 scale for each position.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Halves(&'a [u16]),
    Bytes(&'a [i8], &'a [f32]),
}

impl Code {
    fn bytes(self) -> usize {
        if self == Self::Int8 { 1 } else { 2 }
    }
    /// Numbers of one column side by side in a line.
    fn interleaved(self) -> usize {
        if self == Self::F16 { 1 } else { 2 }
    }
}

impl Order {
    /// Index in a piece of number `d` of a position of the block.
    #[inline(always)]
    fn place(self, code: Code, padded: usize, position: usize, d: usize) -> usize {
        let i = code.interleaved();
        match self {
            Self::Keys => position / 16 * 16 * padded + d / i * 16 * i + position % 16 * i + d % i,
            Self::Values => {
                let step = position % 32;
                position / 32 * 32 * padded + d / 16 * 16 * 32 + step / i * 16 * i + d % 16 * i + step % i
            }
        }
    }
}

impl Side {
    /// Lines of a piece.
    fn piece(self, code: Code) -> usize {
        let scales = if code == Code::Int8 { BLOCK * size_of::<f32>() } else { 0 };
        (BLOCK * self.padded * code.bytes() + scales) / size_of::<Line>()
    }
    fn get(self, code: Code, lines: &[Line]) -> Piece<'_> {
        match code {
            Code::Int8 => {
                let (codes, scales) = lines.split_at(BLOCK * self.padded / size_of::<Line>());
                Piece::Bytes(numbers(codes), numbers(scales))
            }
            _ => Piece::Halves(numbers(lines)),
        }
    }
    /// Stores the numbers of one position and head; says whether all are finite as stored.
    fn put(self, code: Code, lines: &mut [Line], position: usize, from: &[f32], halves: &mut [u16]) -> bool {
        let Self { order, padded } = self;
        if code == Code::Int8 {
            let (codes, scales) = lines.split_at_mut(BLOCK * padded / size_of::<Line>());
            let (codes, scale) = (numbers_mut::<i8>(codes), scale(from));
            numbers_mut::<f32>(scales)[position] = scale;
            // A scale below the normal numbers has no exact inverse; such a row is zero.
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for (d, x) in from.iter().enumerate() {
                codes[order.place(code, padded, position, d)] = (x * inverse + WHOLE - WHOLE) as i8;
            }
            return scale.is_finite();
        }
        let exponent = round(code, from, halves);
        let to = numbers_mut::<u16>(lines);
        for (d, half) in halves.iter().enumerate() {
            to[order.place(code, padded, position, d)] = *half;
        }
        halves.iter().all(|half| half & exponent != exponent)
    }
}

/// Rounds to the nearest 16-bit number; gives the bits of its exponent.
fn round(code: Code, from: &[f32], to: &mut [u16]) -> u16 {
    if code == Code::F16 {
        half::slice::HalfBitsSliceExt::reinterpret_cast_mut::<f16>(to).convert_from_f32_slice(from);
        0x7c00
    } else {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = bf16::from_f32(*x).to_bits());
        0x7f80
    }
}

/// Largest magnitude divided by 127; 0 where that is no normal number, NaN where a number
/// is not finite.
fn scale(from: &[f32]) -> f32 {
    let largest = from.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    match from.iter().all(|x| x.is_finite()) {
        false => f32::NAN,
        true if scale < f32::MIN_POSITIVE => 0.0,
        true => scale,
    }
}

impl Blocks {
    pub(super) fn position_bytes(&self) -> usize {
        self.kv_heads * self.block_lines() * size_of::<Line>() / BLOCK
    }
    pub(super) fn new(code: Code, kv_heads: usize, head_dim: usize) -> Self {
        let keys = Side { order: Order::Keys, padded: head_dim.next_multiple_of(2) };
        let values = Side { order: Order::Values, padded: head_dim.next_multiple_of(16) };
        Self { code, kv_heads, head_dim, keys, values, pages: Vec::new(), finite: true }
    }

    /// Makes room for `end` positions.
    pub(super) fn grow(&mut self, end: usize) -> Result<(), OutOfMemory> {
        let page = PAGE / BLOCK * self.block_lines();
        let more = (end.div_ceil(PAGE) * self.kv_heads).saturating_sub(self.pages.len());
        for _ in 0..more {
            self.pages.push(Slab::take(page)?);
        }
        Ok(())
    }

    /// Lines of one head in one block.
    fn block_lines(&self) -> usize {
        self.keys.piece(self.code) + self.values.piece(self.code)
    }
    /// The page of a head in a block, and where the block starts there.
    fn place(&self, block: usize, head: usize) -> (usize, usize) {
        (block * BLOCK / PAGE * self.kv_heads + head, block % (PAGE / BLOCK) * self.block_lines())
    }
    /// Keys and values of one head in one block.
    fn block(&self, block: usize, head: usize) -> (&[Line], &[Line]) {
        let (page, start) = self.place(block, head);
        self.pages[page][start..][..self.block_lines()].split_at(self.keys.piece(self.code))
    }

    /// Stores keys and values `[m, kv_heads * head_dim]` of the positions from `start` on.
    pub(super) fn put(&mut self, start: usize, k: &[f32], v: &[f32]) {
        let Self { code, kv_heads, head_dim, keys, values, .. } = *self;
        let (lines, mut halves) = (self.block_lines(), vec![0; head_dim]);
        for (i, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let (position, head) = (start + i / kv_heads, i % kv_heads);
            let (page, first) = self.place(position / BLOCK, head);
            let block = &mut self.pages[page][first..][..lines];
            let (to_keys, to_values) = block.split_at_mut(keys.piece(code));
            keys.put(code, to_keys, position % BLOCK, k, &mut halves);
            self.finite &= values.put(code, to_values, position % BLOCK, v, &mut halves);
        }
    }

    /// Forgets what it ever held.
    pub(super) fn reset(&mut self) {
        // What is left over lies under weights of 0, and must be finite there.
        if !self.finite {
            self.pages.iter_mut().for_each(|page| numbers_mut::<u16>(page).fill(0));
        }
        self.finite = true;
    }

    /// Where the first page lies.
    #[cfg(test)]
    pub(super) fn places(&self) -> [*const Line; 2] {
        [self.pages[0].as_ptr(); 2]
    }
    /// One number of a key, decoded.
    pub(super) fn key(&self, head: usize, position: usize, d: usize) -> f32 {
        let place = Order::Keys.place(self.code, self.keys.padded, position % BLOCK, d);
        self.decode(self.key_piece(position / BLOCK, head), position % BLOCK, place)
    }
    /// One number of a value, decoded.
    pub(super) fn value(&self, head: usize, position: usize, d: usize) -> f32 {
        let place = Order::Values.place(self.code, self.values.padded, position % BLOCK, d);
        self.decode(self.value_piece(position / BLOCK, head), position % BLOCK, place)
    }
    fn decode(&self, piece: Piece<'_>, position: usize, place: usize) -> f32 {
        match piece {
            Piece::Bytes(codes, scales) => f32::from(codes[place]) * scales[position],
            Piece::Halves(bits) if self.code == Code::F16 => f16::from_bits(bits[place]).to_f32(),
            Piece::Halves(bits) => bf16::from_bits(bits[place]).to_f32(),
        }
    }

    /// The decoded keys of the first `len` positions, without values.
    pub(super) fn plain_keys(&self, len: usize) -> Rows {
        let mut rows = Rows::new(self.kv_heads, self.head_dim);
        let mut row = vec![0.0; self.kv_heads * self.head_dim];
        for position in 0..len {
            for (i, number) in row.iter_mut().enumerate() {
                *number = self.key(i / self.head_dim, position, i % self.head_dim);
            }
            rows.put_keys(position, &row);
        }
        rows
    }

    /// Lines of the buffers.
    pub(super) fn lines(&self) -> usize {
        self.pages.iter().map(|page| page.len()).sum()
    }
    /// Whether all values ever stored are finite.
    pub(super) fn finite(&self) -> bool {
        self.finite
    }
    /// Width of a head of values with its padding.
    pub(super) fn value_width(&self) -> usize {
        self.values.padded
    }
    /// Width of a head of keys with its padding.
    pub(super) fn key_width(&self) -> usize {
        self.keys.padded
    }
    /// Keys of one head in one block.
    pub(super) fn key_piece(&self, block: usize, head: usize) -> Piece<'_> {
        self.keys.get(self.code, self.block(block, head).0)
    }
    /// Values of one head in one block.
    pub(super) fn value_piece(&self, block: usize, head: usize) -> Piece<'_> {
        self.values.get(self.code, self.block(block, head).1)
    }
    /// Sets the values of one position of a piece, `[64, value_width]` in the piece's order, to 0.
    pub(super) fn clear_value(&self, piece: &mut [u16], position: usize) {
        for d in 0..self.values.padded {
            piece[Order::Values.place(self.code, self.values.padded, position, d)] = 0;
        }
    }
}
