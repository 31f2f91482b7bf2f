//! What a product of flash attention multiplies. Knows no attention.
//!
//! | cache | AVX-512 | elsewhere |
//! |---|---|---|
//! | bf16 | pairs of bf16, in hardware | widened to f32 |
//! | f16 | widened to f32 | the same |
//! | int8 | pairs of int16, in hardware (VNNI) | as bf16, which holds every code |
//!
//! Two rounded operands are right for bf16: queries and weights then lose as much as keys and values
//! have lost. f16 keeps three bits more, so there both stay f32. Beside int8, queries and weights
//! are whole numbers up to 32767 of a unit of their own, and lose next to nothing.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
mod widened;

use crate::aligned::{Aligned, Plain};
use crate::attention::blocks::{Code, Piece};
use crate::isa::{Isa, Kernel};
use crate::lanes::Lanes;
use widened::{Halves, Widened};

/// Products of two steps at a time: `sums += a[0] b[0] + a[1] b[1]`, lane by lane.
pub(super) trait Operand: Copy {
    /// The vectors of what sums end in.
    type Sums: Lanes;
    /// A vector of sums while products are added.
    type Sum: Copy;
    /// A number of a query or of a weight.
    type Number: Plain;
    /// A number of a key or a value.
    type Stored: Plain;
    /// Two steps of `WIDTH` columns.
    type Vector: Copy;
    /// Rows of a register tile.
    const ROWS: usize;
    /// Vectors of sums in a row of the register tile.
    const VECTORS: usize;
    /// Numbers of one column side by side in a line.
    const INTERLEAVED: usize;
    /// The largest query and weight, where they are whole numbers.
    const WHOLE: Option<f32> = None;

    fn sums(self) -> Self::Sums;
    /// The lines of a piece and a scale for each position, where they are codes.
    fn lines<'a>(self, piece: Piece<'a>, room: &'a mut Aligned) -> (&'a [Self::Stored], Option<&'a [f32]>);
    /// Two steps from a line.
    /// # Safety
    /// `from` points at a line, or at a later vector of columns in its first step.
    unsafe fn load(self, from: *const Self::Stored) -> Self::Vector;
    /// The same two numbers in all columns.
    /// # Safety
    /// `from` points at two readable numbers.
    unsafe fn splat(self, from: *const Self::Number) -> Self::Vector;
    /// The sum of nothing.
    fn zero(self) -> Self::Sum;
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, sum: Self::Sum) -> Self::Sum;
    fn float(self, sum: Self::Sum) -> <Self::Sums as Lanes>::F;
    /// Writes two vectors, rounded as a query or weight must be.
    /// # Safety
    /// `to` points at `2 * WIDTH` writable numbers.
    unsafe fn put(self, to: *mut Self::Number, values: [<Self::Sums as Lanes>::F; 2]);
}

/// A kernel that is written once for any operand; `run` must be `#[inline(always)]`.
pub(super) trait OperandKernel {
    fn run<O: Operand>(self, operand: O);
}

/// Runs a kernel with the products of a cache's type on that instruction set; a head of keys is
/// `width` numbers wide.
pub(super) fn run<K: OperandKernel>(isa: Isa, (code, width): (Code, usize), kernel: K) {
    struct OnLanes<K>(K, Code);
    impl<K: OperandKernel> Kernel for OnLanes<K> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            match self.1 {
                Code::F16 => self.0.run(Halves(lanes)),
                Code::Bf16 | Code::Int8 => self.0.run(Widened(lanes)),
            }
        }
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    match (code, isa.bf16(), isa.avx512()) {
        // SAFETY: the tokens prove the features that the function enables.
        (Code::Int8, _, Some(token)) if isa.has_vnni() && width <= avx512::WIDEST => unsafe {
            return avx512::on_integers(token, kernel);
        },
        // SAFETY: as above.
        (Code::Bf16, Some(token), _) => return unsafe { avx512::on_bf16(token, kernel) },
        _ => (),
    }
    let _ = width;
    isa.run(OnLanes(kernel, code));
}
