//! 16-bit numbers, and codes as bf16, widened to f32: on every instruction set.

use super::Operand;
use crate::aligned::{Aligned, numbers};
use crate::attention::blocks::{PAIR_LINE, Piece};
use crate::lanes::Lanes;

/// Pairs of bf16, widened.
#[derive(Clone, Copy)]
pub(super) struct Widened<L>(pub(super) L);

/// f16, widened; queries and weights are f32.
#[derive(Clone, Copy)]
pub(super) struct Halves<L>(pub(super) L);

macro_rules! f32_products {
    ($name:ident, $interleaved:expr, |$l:ident, $from:ident| $load:expr, |$value:ident| $round:expr) => {
        impl<L: Lanes> Operand for $name<L> {
            type Sums = L;
            type Sum = L::F;
            type Number = f32;
            type Stored = u16;
            type Vector = [L::F; 2];
            // 16 sums and 8 vectors of keys in 32 registers, or 8 and 4 in 16.
            const ROWS: usize = 4;
            const VECTORS: usize = if L::WIDTH == 16 { 4 } else { 2 };
            const INTERLEAVED: usize = $interleaved;

            #[inline(always)]
            fn sums(self) -> L {
                self.0
            }
            #[inline(always)]
            fn lines<'a>(self, piece: Piece<'a>, room: &'a mut Aligned) -> (&'a [u16], Option<&'a [f32]>) {
                match piece {
                    Piece::Halves(lines) => (lines, None),
                    Piece::Bytes(codes, scales) => (as_bf16(codes, room), Some(scales)),
                }
            }
            #[inline(always)]
            unsafe fn load(self, $from: *const u16) -> [L::F; 2] {
                let $l = self.0;
                // SAFETY: the caller's promise: both steps of the line are readable.
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn splat(self, from: *const f32) -> [L::F; 2] {
                // SAFETY: the caller's promise.
                unsafe { [self.0.splat(*from), self.0.splat(*from.add(1))] }
            }
            #[inline(always)]
            fn zero(self) -> L::F {
                self.0.splat(0.0)
            }
            #[inline(always)]
            fn multiply_add(self, a: [L::F; 2], b: [L::F; 2], sum: L::F) -> L::F {
                self.0.fma(a[1], b[1], self.0.fma(a[0], b[0], sum))
            }
            #[inline(always)]
            fn float(self, sum: L::F) -> L::F {
                sum
            }
            #[inline(always)]
            unsafe fn put(self, to: *mut f32, values: [L::F; 2]) {
                let $l = self.0;
                for i in 0..2 {
                    let $value = values[i];
                    // SAFETY: the caller's promise.
                    unsafe { $l.store_ptr(to.add(i * L::WIDTH), $round) }
                }
            }
        }
    };
}

f32_products!(Widened, 2, |l, from| l.load_pairs(from), |value| l.round_bf16(value));
f32_products!(Halves, 1, |l, from| [l.load_halves(from), l.load_halves(from.add(PAIR_LINE / 2))], |value| {
    value
});

/// Codes as bf16, which holds them all.
#[inline(always)]
fn as_bf16<'a>(codes: &[i8], room: &'a mut Aligned) -> &'a [u16] {
    for (to, code) in room.numbers::<u16>(codes.len()).iter_mut().zip(codes) {
        *to = (f32::from(*code).to_bits() >> 16) as u16;
    }
    &numbers(room.all())[..codes.len()]
}
