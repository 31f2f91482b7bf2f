//! The gradients of the linear map `y = x W^T`: `dx = dy W` and `dW += dy^T x`. Knows no
//! bias and no step.
//!
//! Both are sums of columns by rows (`outer`), so nothing is turned: rows of W, of x and of dy
//! are only packed, two and two. For `dx`, W is decoded and packed a panel of rows at a time, and
//! panels are added in order. For `dW`, x is packed once; a task packs its own columns of dy and
//! keeps them in its cache.

use std::ops::Range;

use super::outer::{Left, Mode, Place, Right, Size, outer};
use super::packed::{Matrix, lane_elements, pack, packed_lines};
use super::{
    Dot, DotKernel, OPERAND, Operand, PACKED_ROWS, PANEL_STEP, Part, Precision, SCRATCH, of_lines,
    panel_rows, part_operand, run_dot,
};
use crate::aligned::{Aligned, Line, numbers_mut, row_lines};
use crate::pack::RowSource;
use crate::pool::Cpu;

/// Most rows of W that are packed together.
const PACKED: usize = 1536;
/// Pairs of rows of W that one task decodes and packs.
const PACK_PAIRS: usize = 8;
/// Most rows of dx in a task: each block of W that is in the L1 cache is used for all of them.
const ROWS: usize = 192;

/// `dx[m, k] = dy[m, n] * W`, `W` of shape `[n, k]`; `m = dx.len() / k`.
///
/// # Panics
/// If `dx` is not whole rows or `dy` is not `m * n` values.
pub fn input_gradient(cpu: &Cpu, dy: &[f32], weights: &dyn RowSource, precision: Precision, dx: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    assert!(k > 0 && dx.len().is_multiple_of(k), "{} values are no rows of {k}", dx.len());
    let m = dx.len() / k;
    assert_eq!(dy.len(), m * n, "dy must be {m}x{n}");
    if m == 0 || n == 0 {
        return dx.fill(0.0);
    }
    let (mut buffer, mut packed) = (OPERAND.take(), PACKED_ROWS.take());
    let share = m.div_ceil(cpu.pool.threads() * 2).next_multiple_of(PANEL_STEP).min(ROWS);
    for first in (0..n).step_by(PACKED) {
        let rows = first..(first + PACKED).min(n);
        let w = pack_weights(cpu, weights, rows.clone(), precision, &mut packed);
        let part = Part { values: dy, stride: n, columns: rows.clone() };
        let dy = part_operand(cpu, precision, part, &mut buffer);
        let mode = if first == 0 { Mode::Set } else { Mode::Add };
        cpu.pool.run_chunks(dx, share * k, &|task, dx| {
            let size = Size { rows: dx.len() / k, columns: k, depth: rows.len() };
            run_dot(cpu.isa, precision, InputRows { dy, first: task * share, w, size, mode, dx });
        });
    }
    OPERAND.set(buffer.kept());
    PACKED_ROWS.set(packed.kept());
}

/// `dw[n, k] += dy[m, n]^T * x[m, k]`.
///
/// # Panics
/// If `dy` and `x` are not equally many whole rows or `dw` is not `n * k` values.
pub fn weight_gradient(
    cpu: &Cpu,
    (dy, n): (&[f32], usize),
    (x, k): (&[f32], usize),
    precision: Precision,
    dw: &mut [f32],
) {
    assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    let m = x.len() / k;
    assert_eq!(dy.len(), m * n, "dy must be {m}x{n}");
    assert_eq!(dw.len(), n * k, "dw must be {n}x{k}");
    if m == 0 || n == 0 {
        return;
    }
    let mut packed = PACKED_ROWS.take();
    let x = pack(cpu, precision, Matrix { values: x, width: k, group: m }, &mut packed);
    let panel = panel_rows(n, m, cpu.pool.threads());
    cpu.pool.run_chunks(dw, panel * k, &|task, dw| {
        let columns = task * panel..((task + 1) * panel).min(n);
        let dy = Part { values: dy, stride: n, columns };
        run_dot(cpu.isa, precision, WeightRows { dy, x, k, dw });
    });
    PACKED_ROWS.set(packed.kept());
}

/// Rows `rows` of W, packed.
fn pack_weights<'a>(
    cpu: &Cpu,
    weights: &dyn RowSource,
    rows: Range<usize>,
    precision: Precision,
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let (per_row, pairs) = packed_lines(cpu, precision, weights.cols());
    let pair = lane_elements(cpu, precision);
    let lines = buffer.lines(rows.len().div_ceil(pair) * per_row);
    cpu.pool.run_chunks(lines, PACK_PAIRS * per_row, &|task, lines| {
        let first = rows.start + task * PACK_PAIRS * pair;
        let rows = first..(first + PACK_PAIRS * pair).min(rows.end);
        run_dot(cpu.isa, precision, PackWeights { weights, rows, lines, per_row });
    });
    of_lines(lines, (per_row, pairs))
}

/// Decodes and packs rows of W, two to a packed row where a lane takes two.
struct PackWeights<'a> {
    weights: &'a dyn RowSource,
    rows: Range<usize>,
    lines: &'a mut [Line],
    per_row: usize,
}

impl DotKernel for PackWeights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (k, pair) = (self.weights.cols(), D::LANE);
        // Taken, not borrowed in a closure: a closure would not be compiled for the
        // instruction set of this function.
        let (mut spare, panel) = SCRATCH.take();
        let values = match self.weights.as_f32() {
            Some(stored) => &stored[self.rows.start * k..self.rows.end * k],
            None => {
                let decoded = spare.numbers::<f32>(self.rows.len() * k);
                for (row, to) in self.rows.clone().zip(decoded.chunks_exact_mut(k)) {
                    self.weights.decode_row(row, to);
                }
                decoded
            }
        };
        for (rows, lines) in values.chunks(pair * k).zip(self.lines.chunks_exact_mut(self.per_row)) {
            let to = &mut numbers_mut::<D::Element>(lines)[..k * pair];
            dot.interleave([&rows[..k], &rows[k..]], to);
        }
        SCRATCH.set((spare, panel));
    }
}

/// Some rows of `dx`, over some rows of W.
struct InputRows<'a> {
    dy: Operand<'a>,
    first: usize,
    w: Operand<'a>,
    /// Its depth counts rows of W.
    size: Size,
    mode: Mode,
    dx: &'a mut [f32],
}

impl DotKernel for InputRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let elements = &self.dy.elements::<D::Element>()[self.first * self.dy.stride..];
        let a = Left { elements, row: self.dy.stride, step: D::LANE };
        let b = Right { elements: self.w.elements::<D::Element>(), step: self.w.stride };
        let size = Size { depth: self.size.depth.div_ceil(D::LANE), ..self.size };
        outer(dot, size, a, b, self.mode, Place { values: self.dx, stride: size.columns });
    }
}

/// Some rows of `dW`: the columns `dy.columns`.
struct WeightRows<'a> {
    dy: Part<'a>,
    x: Operand<'a>,
    k: usize,
    dw: &'a mut [f32],
}

impl DotKernel for WeightRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (count, pair, n) = (self.dy.columns.len(), D::LANE, self.dy.stride);
        let depth = self.dy.rows().div_ceil(pair);
        // Taken, not borrowed in a closure, as above.
        let (row, mut panel) = SCRATCH.take();
        let per_row = row_lines::<D::Element>(count * pair);
        let lines = panel.lines(depth * per_row);
        for (rows, lines) in self.dy.values.chunks(pair * n).zip(lines.chunks_exact_mut(per_row)) {
            let to = &mut numbers_mut::<D::Element>(lines)[..count * pair];
            let second = rows.get(n..).filter(|row| !row.is_empty());
            let second = second.map_or(&[][..], |row| &row[self.dy.columns.clone()]);
            dot.interleave([&rows[self.dy.columns.clone()], second], to);
        }
        let elements = &*numbers_mut::<D::Element>(lines);
        let a = Left { elements, row: pair, step: elements.len() / depth };
        let b = Right { elements: self.x.elements::<D::Element>(), step: self.x.stride };
        let size = Size { rows: count, columns: self.k, depth };
        outer(dot, size, a, b, Mode::Add, Place { values: self.dw, stride: self.k });
        SCRATCH.set((row, panel));
    }
}

#[cfg(test)]
mod tests;
