//! Rows to columns: `out[j, i] = x[i, j]`, as plain f32 or as a dot product's operand.
//! The trick: squares of 16 x 16 values, so that lines read and lines written both stay
//! in the L1 cache while they are used.

use std::ops::Range;

use crate::aligned::{Aligned, Line, numbers_mut};
use crate::linear::{Dot, DotKernel, Operand, Part, Precision, element_lines, of_lines, run_dot};
use crate::pool::{Cpu, Disjoint};

/// Columns of x in a task: their f32 are one cache line.
const SIDE: usize = 16;
/// Rows of x that are turned before they are converted.
const RUN: usize = 256;
/// A turned column; longer than `RUN`, so that columns fall on different cache sets.
type Column = [f32; RUN + SIDE];

/// The transpose `[k, m]` of `x [m, k]`.
///
/// # Panics
/// If `x` is not whole rows or `out` is not of the same length.
pub fn transpose(cpu: &Cpu, x: &[f32], k: usize, out: &mut [f32]) {
    assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    assert_eq!(out.len(), x.len());
    let m = x.len() / k;
    if m == 0 {
        return;
    }
    cpu.pool.run_chunks(out, SIDE * m, &|task, out| {
        let mut columns = [[0.0; RUN + SIDE]; SIDE];
        for start in (0..m).step_by(RUN) {
            let first = task * SIDE;
            let count = turn((x, k), first..(first + SIDE).min(k), start, &mut columns);
            for (to, column) in out.chunks_exact_mut(m).zip(&columns) {
                to[start..start + count].copy_from_slice(&column[..count]);
            }
        }
    });
}

/// Turns the columns `which`, up to `SIDE`, over up to `RUN` rows from `start` on; gives the
/// number of rows.
#[inline(always)]
fn turn((x, k): (&[f32], usize), which: Range<usize>, start: usize, columns: &mut [Column; SIDE]) -> usize {
    let rows = &x[start * k..];
    let count = (rows.len() / k).min(RUN);
    let (first, wide) = (which.start, which.len());
    for square in (0..count).step_by(SIDE) {
        // A row's piece is copied whole first: rows may all fall on the same cache set.
        let mut lines = [[0.0f32; SIDE]; SIDE];
        for (i, line) in lines.iter_mut().enumerate().take(count - square) {
            let from = &rows[(square + i) * k + first..];
            if wide == SIDE {
                line.copy_from_slice(&from[..SIDE]);
            } else {
                line[..wide].copy_from_slice(&from[..wide]);
            }
        }
        for (j, column) in columns.iter_mut().enumerate() {
            for i in 0..SIDE {
                column[square + i] = lines[i][j];
            }
        }
    }
    count
}

/// The columns of `x [m, k]` as rows of a dot product's operand.
pub(crate) fn operand<'a>(
    cpu: &Cpu,
    precision: Precision,
    (x, k): (&[f32], usize),
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let m = x.len() / k;
    let (per_row, pairs) = element_lines(cpu, precision, m);
    let lines = buffer.lines(k * per_row);
    cpu.pool.run_chunks(lines, SIDE * per_row, &|task, lines| {
        let columns = task * SIDE..((task + 1) * SIDE).min(k);
        run_dot(cpu.isa, precision, Turn { x: Part { values: x, stride: k, columns }, lines });
    });
    of_lines(lines, (per_row, pairs))
}

/// Turns and converts columns, each to as many lines.
struct Turn<'a> {
    x: Part<'a>,
    lines: &'a mut [Line],
}

impl DotKernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let to = numbers_mut::<D::Element>(self.lines);
        let stride = to.len() / self.x.columns.len();
        let to = Disjoint::new(to);
        // SAFETY: the lines are borrowed for this call alone.
        unsafe { turn_columns(dot, self.x, Target { elements: &to, start: 0, stride }) };
    }
}

/// Where turned columns go: row `j` starts at `start + j * stride`.
pub(crate) struct Target<'a, E> {
    pub(crate) elements: &'a Disjoint<'a, E>,
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

/// Column `x.columns.start + j` of all rows of x becomes row `j` of the target.
///
/// # Safety
/// Nobody else reads or writes the rows of the target meanwhile.
#[inline(always)]
pub(crate) unsafe fn turn_columns<D: Dot>(dot: D, x: Part<'_>, to: Target<'_, D::Element>) {
    let mut columns = [[0.0; RUN + SIDE]; SIDE];
    for first in x.columns.clone().step_by(SIDE) {
        let which = first..(first + SIDE).min(x.columns.end);
        for start in (0..x.rows()).step_by(RUN) {
            let count = turn((x.values, x.stride), which.clone(), start, &mut columns);
            for (j, column) in which.clone().zip(&columns) {
                let at = to.start + (j - x.columns.start) * to.stride + start;
                // SAFETY: the caller's promise.
                let to = unsafe { to.elements.slice(at, count) };
                dot.convert(&column[..count], to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    #[test]
    fn rows_become_columns() {
        for (m, k) in [(0, 3), (1, 1), (3, 17), (16, 16), (257, 33), (300, 15)] {
            let x = noise(m * k, 1);
            let mut out = vec![0.0; m * k];
            transpose(&Cpu::new(Isa::SCALAR, 2), &x, k, &mut out);
            assert!((0..m * k).all(|i| x[i] == out[i % k * m + i / k]));
        }
    }
}
