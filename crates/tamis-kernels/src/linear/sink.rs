//! Where products go: a matrix that tasks write in parts that do not overlap. Knows no
//! operand.

use std::ops::AddAssign;

use super::tile::Sink;
use crate::pool::Disjoint;

/// A matrix, written by all tasks.
pub(crate) struct Output<'a, T = f32> {
    pub(crate) values: Disjoint<'a, T>,
    /// Values from one row to the next.
    pub(crate) stride: usize,
}

impl<'a, T> Output<'a, T> {
    pub(crate) fn new(values: &'a mut [T], stride: usize) -> Self {
        Self { values: Disjoint::new(values), stride }
    }
}

/// The part of a matrix from row and column `origin` on, which becomes the product. What is
/// written through it belongs to one task.
pub(crate) struct SetSink<'a> {
    pub(crate) out: &'a Output<'a>,
    pub(crate) origin: (usize, usize),
}

impl Sink for SetSink<'_> {
    type Total = f32;
    #[inline(always)]
    fn place(&self, row: usize, column: usize, len: usize) -> &mut [f32] {
        let start = (self.origin.0 + row) * self.out.stride + self.origin.1 + column;
        // SAFETY: tasks own disjoint parts, and one task computes a part.
        unsafe { self.out.values.slice(start, len) }
    }
    #[inline(always)]
    fn combine(total: f32, value: f32, first: bool) -> f32 {
        if first { value } else { total + value }
    }
}

/// The same part, to which the product is added, block by block.
pub(crate) struct AddSink<'a, T> {
    pub(crate) out: &'a Output<'a, T>,
    pub(crate) origin: (usize, usize),
}

impl<T: Copy + AddAssign + From<f32>> Sink for AddSink<'_, T> {
    type Total = T;
    #[inline(always)]
    fn place(&self, row: usize, column: usize, len: usize) -> &mut [T] {
        let start = (self.origin.0 + row) * self.out.stride + self.origin.1 + column;
        // SAFETY: tasks own disjoint parts, and one task computes a part.
        unsafe { self.out.values.slice(start, len) }
    }
    #[inline(always)]
    fn combine(mut total: T, value: f32, _first: bool) -> T {
        total += T::from(value);
        total
    }
}
