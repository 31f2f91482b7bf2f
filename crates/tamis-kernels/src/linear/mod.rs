//! The linear map `y[i, j] = sum_k x[i, k] * W[j, k]` for any weights that can decode
//! their rows. Knows no bias, no format and no layer.
//!
//! The trick: output features are cut into panels; a task decodes the rows of one
//! panel once, into its thread's buffer, and multiplies them with all rows of x
//! (`tile`). One token and a long prompt run the same code and give the same bits.

mod blocks;
mod dot;
mod gradient;
mod many;
mod outer;
mod packed;
pub mod scalar;
mod tile;

use std::cell::Cell;
use std::ops::Range;

pub(crate) use dot::{Dot, DotKernel, Operand, run_dot};
pub use gradient::{input_gradient, weight_gradient};
pub use many::linear_many;
pub(crate) use outer::{Left, Mode, Place, Right, Size, outer};
pub(crate) use packed::{Matrix, lane_elements, pack};
pub(crate) use tile::{BLOCK_BYTES, Rows, Sink, product};

use crate::aligned::{Aligned, Line, numbers, numbers_mut, row_lines};
use crate::lanes::Lanes;
use crate::pack::{RowSource, SparseRows};
use crate::pool::{Cpu, Disjoint};
use crate::sparse;

/// How operands are rounded before they are multiplied; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Operands as they are.
    #[default]
    F32,
    /// Both operands rounded to the nearest bf16, ties to even.
    Bf16,
}

/// Most rows of W in a panel.
const PANEL: usize = 96;
/// Rows of W in a panel are a multiple of this: both tile widths (4 and 6) divide it.
const PANEL_STEP: usize = 12;
/// Bytes of a decoded panel: half of a common L2 cache.
const PANEL_BYTES: usize = 512 << 10;
/// Up to so many rows of x, W is decoded a tile at a time.
const FEW_ROWS: usize = 16;

thread_local! {
    /// A thread's buffers: one decoded row, and the converted rows of a panel.
    static SCRATCH: Cell<(Aligned, Aligned)> = const { Cell::new((Aligned::new(), Aligned::new())) };
    /// The calling thread's converted x: new memory for each call costs its page faults.
    static OPERAND: Cell<Aligned> = const { Cell::new(Aligned::new()) };
    /// The same, or W, packed for `outer`.
    static PACKED_ROWS: Cell<Aligned> = const { Cell::new(Aligned::new()) };
    /// The same, side by side for a sparse stream.
    static TRANSPOSED: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

/// `y[m, n] = x[m, k] * W^T`, `W` of shape `[n, k]`; `m = x.len() / k`. `precision` is that of
/// the dense part; sparse rows are multiplied with x as it is.
///
/// # Panics
/// If `x` is not whole rows or `y` is not `m * n` values.
pub fn linear(cpu: &Cpu, x: &[f32], weights: &dyn RowSource, precision: Precision, y: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    let m = x.len() / k;
    assert_eq!(y.len(), m * n, "y must be {m}x{n}");
    if m == 0 || n == 0 {
        return;
    }
    if let Some(w) = weights.as_blocks() {
        return blocks::product(cpu, x, w, blocks::Shape { m, n, k }, precision, y);
    }
    if let Some(w) = weights.as_sparse() {
        return entries(cpu, x, w, y);
    }
    let parts = weights.parts();
    let (weights, stream) =
        parts.map_or((weights, None), |(base, ortho, alpha)| (base, Some((ortho, alpha))));
    let (mut buffer, mut transposed) = (OPERAND.take(), TRANSPOSED.take());
    let stream = stream.map(|stream| (sparse::Input::new(cpu, x, k, &mut transposed), stream));
    let row = x;
    let x = operand(cpu, precision, (x, k), &mut buffer);
    let panel = panel_rows(n, k, cpu.pool.threads());
    let out = Output { values: Disjoint::new(y), stride: n };
    cpu.pool.run(n.div_ceil(panel), &|task| {
        let first = task * panel;
        let rows = first..(first + panel).min(n);
        // SAFETY: panels are disjoint, and one task computes a panel.
        let y = || unsafe { out.values.slice(first, rows.len()) };
        let alone = m == 1 && precision == Precision::F32;
        if !(alone && weights.dots(cpu.isa, row, rows.clone(), y())) {
            run_dot(cpu.isa, precision, Panel { x, m, weights, rows: rows.clone(), out: &out });
        }
        if let Some((x, stream)) = stream {
            let count = rows.len();
            // SAFETY: as above.
            sparse::add_panel(cpu.isa, x, stream, rows, |i| unsafe {
                out.values.slice(i * n + first, count)
            });
        }
    });
    OPERAND.set(buffer.kept());
    TRANSPOSED.set(transposed.kept());
}

/// The product with nothing but sparse rows.
fn entries(cpu: &Cpu, x: &[f32], weights: &SparseRows, y: &mut [f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    y.fill(0.0);
    let mut transposed = TRANSPOSED.take();
    let x = sparse::Input::new(cpu, x, k, &mut transposed);
    let panel = panel_rows(n, k, cpu.pool.threads());
    let y = Disjoint::new(y);
    cpu.pool.run(n.div_ceil(panel), &|task| {
        let first = task * panel;
        let rows = first..(first + panel).min(n);
        let count = rows.len();
        // SAFETY: panels are disjoint, and one task computes a panel.
        sparse::add_panel(cpu.isa, x, (weights, 1.0), rows, |i| unsafe { y.slice(i * n + first, count) });
    });
    TRANSPOSED.set(transposed.kept());
}

/// Rows of W in a task. Any number gives the same bits; few rows keep all threads busy.
fn panel_rows(n: usize, k: usize, threads: usize) -> usize {
    let fit = PANEL_BYTES / (k * size_of::<f32>());
    let share = n.div_ceil(threads * 2);
    let rows = fit.min(share).clamp(PANEL_STEP, PANEL);
    rows / PANEL_STEP * PANEL_STEP
}

/// Whether rows of `k` values fall on so few cache sets that a copy with a better
/// stride pays: a set recurs every 4 KiB, and a tile and its neighbours are 16 rows.
fn crowded<T>(k: usize, m: usize) -> bool {
    m > FEW_ROWS && (k * size_of::<T>()).is_multiple_of(1024)
}

/// Rows `[m, k]` as an operand of the dot product, converted once for all panels.
pub(crate) fn operand<'a>(
    cpu: &Cpu,
    precision: Precision,
    (x, k): (&'a [f32], usize),
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    part_operand(cpu, precision, Part { values: x, stride: k, columns: 0..k }, buffer)
}

/// Some columns of a matrix of whole rows.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub(crate) values: &'a [f32],
    /// Values from one row to the next.
    pub(crate) stride: usize,
    pub(crate) columns: Range<usize>,
}

impl Part<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.stride
    }
}

/// Lines for a row of `len` elements of a dot product, and whether these are bf16 pairs.
pub(crate) fn element_lines(cpu: &Cpu, precision: Precision, len: usize) -> (usize, bool) {
    let pairs = precision == Precision::Bf16 && cpu.isa.has_bf16();
    (if pairs { row_lines::<u16>(len) } else { row_lines::<f32>(len) }, pairs)
}

/// Lines as an operand whose rows take `per_row` each.
pub(crate) fn of_lines(lines: &[Line], (per_row, pairs): (usize, bool)) -> Operand<'_> {
    match pairs {
        true => Operand::new(numbers::<u16>(lines), per_row * 32),
        false => Operand::new(numbers::<f32>(lines), per_row * 16),
    }
}

/// Columns `x.columns` of all rows as an operand.
pub(crate) fn part_operand<'a>(
    cpu: &Cpu,
    precision: Precision,
    x: Part<'a>,
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let (m, k) = (x.rows(), x.columns.len());
    if precision == Precision::F32 && !crowded::<f32>(x.stride, m) {
        return Operand::new(&x.values[x.columns.start.min(x.values.len())..], x.stride);
    }
    let (per_row, pairs) = element_lines(cpu, precision, k);
    let lines = buffer.lines(m * per_row);
    let rows = (CONVERT_VALUES / k).max(1);
    cpu.pool.run_chunks(lines, rows * per_row, &|i, lines| {
        let from = i * rows * x.stride;
        let values = &x.values[from..(from + rows * x.stride).min(x.values.len())];
        run_dot(cpu.isa, precision, Convert { x: Part { values, ..x.clone() }, lines, per_row });
    });
    of_lines(lines, (per_row, pairs))
}

/// Values of x that one task converts.
const CONVERT_VALUES: usize = 1 << 15;

/// Converts rows of f32, each to `per_row` lines.
struct Convert<'a> {
    x: Part<'a>,
    lines: &'a mut [Line],
    per_row: usize,
}

impl DotKernel for Convert<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let rows = self.lines.chunks_exact_mut(self.per_row);
        for (from, to) in self.x.values.chunks_exact(self.x.stride).zip(rows) {
            let from = &from[self.x.columns.clone()];
            let to = numbers_mut(to);
            dot.convert(from, &mut to[..from.len()]);
            // The other half of a last pair.
            if let Some(next) = to.get_mut(from.len()) {
                *next = D::ZERO;
            }
        }
    }
}

/// One panel of the product.
struct Panel<'a> {
    x: Operand<'a>,
    m: usize,
    weights: &'a dyn RowSource,
    rows: Range<usize>,
    out: &'a Output<'a>,
}

impl DotKernel for Panel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (k, count) = (self.weights.cols(), self.rows.len());
        if self.m == 1 {
            let x = &self.x.elements::<D::Element>()[..k];
            // SAFETY: panels are disjoint, and one task computes a panel.
            let y = unsafe { self.out.values.slice(self.rows.start, count) };
            if dot.dots(self.weights, x, self.rows.clone(), y) {
                return;
            }
        }
        let x = Rows::new(self.x.elements::<D::Element>(), self.x.stride, self.m, k);
        let stored = D::stored(self.weights).filter(|_| !crowded::<D::Element>(k, self.m));
        if let Some(w) = stored {
            let sink = PanelSink { out: self.out, first: self.rows.start };
            return product(dot, x, Rows::new(&w[self.rows.start * k..], k, count, k), &sink);
        }
        // Few rows of x: decode as many rows of W as a tile takes, so that they are still
        // in the L1 cache when they are used. Many: decode the panel once for all of x.
        let part = if self.m <= FEW_ROWS { <D::Sums as Lanes>::TILE.1 } else { count };
        // Taken, not borrowed in a closure: a closure would not be compiled for the
        // instruction set of this function.
        let (mut row, mut panel) = SCRATCH.take();
        let per_row = row_lines::<D::Element>(k);
        let lines = panel.lines(part.min(count) * per_row);
        let row_values = row.numbers::<f32>(k);
        let mut first = self.rows.start;
        while first < self.rows.end {
            let count = part.min(self.rows.end - first);
            for (j, lines) in lines.chunks_exact_mut(per_row).take(count).enumerate() {
                let to = &mut numbers_mut::<D::Element>(lines)[..k];
                dot.decode(self.weights, first + j, row_values, to);
            }
            let elements = numbers::<D::Element>(&lines[..count * per_row]);
            let sink = PanelSink { out: self.out, first };
            product(dot, x, Rows::new(elements, elements.len() / count, count, k), &sink);
            first += part;
        }
        SCRATCH.set((row, panel));
    }
}

/// The result matrix, written by all tasks.
struct Output<'a> {
    values: Disjoint<'a, f32>,
    stride: usize,
}

/// The columns of one panel in the result.
struct PanelSink<'a> {
    out: &'a Output<'a>,
    first: usize,
}

impl Sink for PanelSink<'_> {
    type Total = f32;
    #[inline(always)]
    fn place(&self, row: usize, column: usize, len: usize) -> &mut [f32] {
        let start = row * self.out.stride + self.first + column;
        // SAFETY: panels own disjoint columns, and one task computes a panel.
        unsafe { self.out.values.slice(start, len) }
    }
    #[inline(always)]
    fn combine(total: f32, value: f32, first: bool) -> f32 {
        if first { value } else { total + value }
    }
}

#[cfg(test)]
mod pruned_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{agrees_with_the_reference, noise};
