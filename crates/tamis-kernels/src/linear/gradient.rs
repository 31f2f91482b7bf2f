//! The gradients of the linear map `y = x W^T`: `dx = dy W` and `dW += dy^T x`. Knows no
//! bias and no step.
//!
//! The trick: both are products of rows by rows once an operand is turned, so the tiles of
//! the map itself do them. For `dx`, W is decoded and turned a panel of `TURNED` rows at a
//! time, and panels are added in order. For `dW`, x is turned once; a task turns its own
//! columns of dy and keeps them in its cache.

use std::cell::Cell;
use std::ops::Range;

use super::{
    AddSink, Dot, DotKernel, OPERAND, Operand, Output, Part, Precision, Rows, SCRATCH, SetSink,
    element_lines, of_lines, panel_rows, part_operand, product, run_dot,
};
use crate::aligned::{Aligned, Line, numbers_mut, row_lines};
use crate::pack::RowSource;
use crate::pool::{Cpu, Disjoint};
use crate::transpose::{Target, operand as columns_of, turn_columns};

/// Rows of W in a turned panel: one block of a product of bf16 pairs, two of f32.
const TURNED: usize = 1536;
/// Rows of W that one task turns: whole cache lines of a turned row, so that no line is
/// written by two tasks.
const STRIP: usize = 32;

thread_local! {
    /// The calling thread's turned operand.
    static COLUMNS: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

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
    let (mut buffer, mut columns) = (OPERAND.take(), COLUMNS.take());
    let out = Output::new(dx, k);
    for first in (0..n).step_by(TURNED) {
        let rows = first..(first + TURNED).min(n);
        let w = turned(cpu, weights, rows.clone(), precision, &mut columns);
        let part = Part { values: dy, stride: n, columns: rows.clone() };
        let dy = part_operand(cpu, precision, part, &mut buffer);
        let panel = panel_rows(k, rows.len(), cpu.pool.threads());
        cpu.pool.run(k.div_ceil(panel), &|task| {
            let columns = task * panel..((task + 1) * panel).min(k);
            let adds = first > 0;
            run_dot(cpu.isa, precision, InputPanel { dy, m, w, columns, len: rows.len(), adds, out: &out });
        });
    }
    OPERAND.set(buffer.kept());
    COLUMNS.set(columns.kept());
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
    let mut columns = COLUMNS.take();
    let x = columns_of(cpu, precision, (x, k), &mut columns);
    let panel = panel_rows(n, m, cpu.pool.threads());
    let out = Output::new(dw, k);
    cpu.pool.run(n.div_ceil(panel), &|task| {
        let columns = task * panel..((task + 1) * panel).min(n);
        let dy = Part { values: dy, stride: n, columns };
        run_dot(cpu.isa, precision, WeightPanel { dy, x, k, out: &out });
    });
    COLUMNS.set(columns.kept());
}

/// Rows `rows` of W, turned: an operand of `k` rows.
fn turned<'a>(
    cpu: &Cpu,
    weights: &dyn RowSource,
    rows: Range<usize>,
    precision: Precision,
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let shape = element_lines(cpu, precision, rows.len());
    let lines = buffer.lines(weights.cols() * shape.0);
    let all = Disjoint::new(&mut *lines);
    cpu.pool.run(rows.len().div_ceil(STRIP), &|task| {
        let first = rows.start + task * STRIP;
        let strip = first..(first + STRIP).min(rows.end);
        run_dot(cpu.isa, precision, Strip { weights, rows: strip, start: task * STRIP, lines: &all, shape });
    });
    of_lines(lines, shape)
}

/// Decodes and turns a strip of W, to elements `start..` of every turned row.
struct Strip<'a> {
    weights: &'a dyn RowSource,
    rows: Range<usize>,
    start: usize,
    lines: &'a Disjoint<'a, Line>,
    /// Lines of a turned row.
    shape: (usize, bool),
}

impl DotKernel for Strip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let k = self.weights.cols();
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
        let elements = self.lines.numbers::<D::Element>();
        let stride = self.shape.0 * (size_of::<Line>() / size_of::<D::Element>());
        let to = Target { elements: &elements, start: self.start, stride };
        // SAFETY: strips are disjoint, and one task turns a strip.
        unsafe { turn_columns(dot, Part { values, stride: k, columns: 0..k }, to) };
        SCRATCH.set((spare, panel));
    }
}

/// Columns of `dx` over one turned panel of W.
struct InputPanel<'a> {
    dy: Operand<'a>,
    m: usize,
    w: Operand<'a>,
    columns: Range<usize>,
    /// Rows of W in the panel.
    len: usize,
    adds: bool,
    out: &'a Output<'a>,
}

impl DotKernel for InputPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let dy = Rows::new(self.dy.elements::<D::Element>(), self.dy.stride, self.m, self.len);
        let w = &self.w.elements::<D::Element>()[self.columns.start * self.w.stride..];
        let w = Rows::new(w, self.w.stride, self.columns.len(), self.len);
        let (out, origin) = (self.out, (0, self.columns.start));
        match self.adds {
            true => product(dot, dy, w, &AddSink { out, origin }),
            false => product(dot, dy, w, &SetSink { out, origin }),
        }
    }
}

/// Some rows of `dW`: the columns `dy.columns`.
struct WeightPanel<'a> {
    dy: Part<'a>,
    x: Operand<'a>,
    k: usize,
    out: &'a Output<'a>,
}

impl DotKernel for WeightPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (m, count, first) = (self.dy.rows(), self.dy.columns.len(), self.dy.columns.start);
        // Taken, not borrowed in a closure: a closure would not be compiled for the
        // instruction set of this function.
        let (row, mut panel) = SCRATCH.take();
        let per_row = row_lines::<D::Element>(m);
        let elements = numbers_mut::<D::Element>(panel.lines(count * per_row));
        let stride = elements.len() / count;
        let to = Disjoint::new(&mut *elements);
        // SAFETY: the buffer is this thread's own.
        unsafe { turn_columns(dot, self.dy, Target { elements: &to, start: 0, stride }) };
        let dy = Rows::new(elements, stride, count, m);
        let x = Rows::new(self.x.elements::<D::Element>(), self.x.stride, self.k, m);
        product(dot, dy, x, &AddSink { out: self.out, origin: (first, 0) });
        SCRATCH.set((row, panel));
    }
}

#[cfg(test)]
mod tests;
