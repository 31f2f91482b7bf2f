//! The linear map `y = x W^T` for many rows of x, as products of columns by rows (`outer`): no lanes are added.
//! Sums come in another order than in `linear`, so bits differ from it, and from those of the few rows that it
//! leaves to it; otherwise they depend on neither rows nor threads. Knows no bias.
//!
//! The trick: W is decoded and turned a strip of rows at a time, so that a vector holds one pair of columns of
//! sixteen rows. That pays from a few dozen rows of x on.

use std::ops::Range;

use super::dot::{Dot, DotKernel, run_dot};
use super::outer::{Left, Mode, Place, Right, Size, outer};
use super::packed::lane_elements;
use super::{FEW_ROWS, OPERAND, Operand, PACKED_ROWS, PANEL_STEP, Precision, SCRATCH, linear, operand};
use crate::aligned::{Line, numbers, numbers_mut, row_lines};
use crate::pack::RowSource;
use crate::pool::Cpu;

/// Rows of W in a strip: four vectors of 16, or eight of 8.
const STRIP: usize = 64;
/// Rows of W that are turned together.
pub(super) const SIDE: usize = 16;
/// Strips that are turned before they are multiplied: a few MiB.
const STRIPS: usize = 24;
/// Most rows of y in a task: each block of W that is in the L1 cache is used for all of them.
const ROWS: usize = 192;
/// Lines of a strip for each p: 64 pairs of bf16, or 64 of f32.
const PER_P: usize = STRIP * 4 / size_of::<Line>();

/// `y[m, n] = x[m, k] * W^T`, `W` of shape `[n, k]`; `m = x.len() / k`.
///
/// # Panics
/// If `x` is not whole rows or `y` is not `m * n` values.
pub fn linear_many(cpu: &Cpu, x: &[f32], weights: &dyn RowSource, precision: Precision, y: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    let m = x.len() / k.max(1);
    let own = weights.as_blocks().is_some() || weights.as_sparse().is_some() || weights.parts().is_some();
    if own || m <= FEW_ROWS || n == 0 {
        return linear(cpu, x, weights, precision, y);
    }
    assert!(x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    assert_eq!(y.len(), m * n, "y must be {m}x{n}");
    let (mut buffer, mut packed) = (OPERAND.take(), PACKED_ROWS.take());
    let depth = k.div_ceil(lane_elements(cpu, precision));
    let share = m.div_ceil(cpu.pool.threads() * 2).next_multiple_of(PANEL_STEP).min(ROWS);
    let x = operand(cpu, precision, (x, k), &mut buffer);
    for first in (0..n).step_by(STRIPS * STRIP) {
        let rows = first..(first + STRIPS * STRIP).min(n);
        let lines = packed.lines(rows.len().div_ceil(STRIP) * depth * PER_P);
        cpu.pool.run_chunks(lines, depth * PER_P, &|strip, lines| {
            let first = rows.start + strip * STRIP;
            let rows = first..(first + STRIP).min(rows.end);
            run_dot(cpu.isa, precision, Turn { weights, rows, lines });
        });
        let lines = &*lines;
        cpu.pool.run_chunks(y, share * n, &|task, y| {
            run_dot(
                cpu.isa,
                precision,
                ManyRows { x, first: task * share, lines, depth, rows: rows.clone(), n, y },
            );
        });
    }
    OPERAND.set(buffer.kept());
    PACKED_ROWS.set(packed.kept());
}

/// Decodes and turns a strip of W: `[depth][STRIP][pair]`.
struct Turn<'a> {
    weights: &'a dyn RowSource,
    rows: Range<usize>,
    lines: &'a mut [Line],
}

impl DotKernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let k = self.weights.cols();
        let per_row = row_lines::<D::Element>(k);
        // Taken, not borrowed in a closure: a closure would not be compiled for the
        // instruction set of this function.
        let (mut spare, mut panel) = SCRATCH.take();
        let decoded = panel.lines(SIDE * per_row);
        let values = spare.numbers::<f32>(k);
        let to = numbers_mut::<D::Element>(self.lines);
        let mut first = self.rows.start;
        while first < self.rows.end {
            let count = SIDE.min(self.rows.end - first);
            for (i, lines) in decoded.chunks_exact_mut(per_row).take(count).enumerate() {
                let row = numbers_mut::<D::Element>(lines);
                dot.decode(self.weights, first + i, values, &mut row[..k]);
                row[k..].fill(D::ZERO);
            }
            let from = numbers::<D::Element>(decoded);
            let column = (first - self.rows.start) * D::LANE;
            dot.turn((from, from.len() / SIDE), k.div_ceil(D::LANE), (&mut to[column..], STRIP * D::LANE));
            first += SIDE;
        }
        SCRATCH.set((spare, panel));
    }
}

/// Some rows of `y`, over some rows of W.
struct ManyRows<'a> {
    x: Operand<'a>,
    first: usize,
    lines: &'a [Line],
    depth: usize,
    rows: Range<usize>,
    n: usize,
    y: &'a mut [f32],
}

impl DotKernel for ManyRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let elements = &self.x.elements::<D::Element>()[self.first * self.x.stride..];
        let a = Left { elements, row: self.x.stride, step: D::LANE };
        let mut column = self.rows.start;
        for lines in self.lines.chunks_exact(self.depth * PER_P) {
            let b = Right { elements: numbers::<D::Element>(lines), step: STRIP * D::LANE };
            let columns = STRIP.min(self.rows.end - column);
            let size = Size { rows: self.y.len() / self.n, columns, depth: self.depth };
            outer(dot, size, a, b, Mode::Set, Place { values: &mut self.y[column..], stride: self.n });
            column += STRIP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{agrees_with_the_reference, noise};
    use super::*;
    use crate::isa::Isa;
    use crate::pack::DenseF32;

    #[test]
    fn every_isa_agrees_with_the_reference_at_awkward_sizes() {
        let sizes = [(17, 1), (17, 15), (18, 64), (33, 65), (101, 7), (200, 1537), (400, 17)];
        agrees_with_the_reference(linear_many, &[1, 2, 31, 33, 172, 256, 257, 576], &sizes);
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_other_rows() {
        let (m, n, k) = (203, 131, 300);
        let x = noise(m * k, 3);
        let w = DenseF32::new(n, k, noise(n * k, 4)).unwrap();
        for (isa, precision) in
            Isa::available().into_iter().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
        {
            let product = |threads, x: &[f32]| {
                let mut y = vec![0.0; x.len() / k * n];
                linear_many(&Cpu::new(isa, threads), x, &w, precision, &mut y);
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let all = product(1, &x);
            assert!([2, 3, 8].iter().all(|threads| product(*threads, &x) == all));
            assert_eq!(product(2, &x[..20 * k]), all[..20 * n]);
            assert_eq!(product(2, &x[50 * k..]), all[50 * n..]);
        }
    }
}
