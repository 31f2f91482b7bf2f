//! Rows to columns: `out[j, i] = x[i, j]`, as plain f32 or as a dot product's operand.
//! The trick: squares of 16 x 16 values, so that lines read and lines written both stay
//! in the L1 cache while they are used.

use crate::aligned::{Aligned, Line, numbers, numbers_mut, row_lines};
use crate::linear::{Dot, DotKernel, Operand, Precision, run_dot};
use crate::pool::Cpu;

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
            let count = turn((x, k), task * SIDE, start, &mut columns);
            for (to, column) in out.chunks_exact_mut(m).zip(&columns) {
                to[start..start + count].copy_from_slice(&column[..count]);
            }
        }
    });
}

/// Turns up to `SIDE` columns from `first` on, over up to `RUN` rows from `start` on;
/// gives the number of rows.
#[inline(always)]
fn turn((x, k): (&[f32], usize), first: usize, start: usize, columns: &mut [Column; SIDE]) -> usize {
    let rows = &x[start * k..];
    let count = (rows.len() / k).min(RUN);
    let wide = SIDE.min(k - first);
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
pub(super) fn operand<'a>(
    cpu: &Cpu,
    precision: Precision,
    x: (&[f32], usize),
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let (k, m) = (x.1, x.0.len() / x.1);
    let pairs = precision == Precision::Bf16 && cpu.isa.has_bf16();
    let per_row = if pairs { row_lines::<u16>(m) } else { row_lines::<f32>(m) };
    let lines = buffer.lines(k * per_row);
    cpu.pool.run_chunks(lines, SIDE * per_row, &|task, lines| {
        run_dot(cpu.isa, precision, Columns { x, first: task * SIDE, lines, per_row });
    });
    match pairs {
        true => Operand::new(numbers::<u16>(lines), per_row * 32),
        false => Operand::new(numbers::<f32>(lines), per_row * 16),
    }
}

/// Turns and converts `SIDE` columns.
struct Columns<'a> {
    x: (&'a [f32], usize),
    first: usize,
    lines: &'a mut [Line],
    per_row: usize,
}

impl DotKernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (x, k) = self.x;
        let m = x.len() / k;
        let mut columns = [[0.0; RUN + SIDE]; SIDE];
        for start in (0..m).step_by(RUN) {
            let count = turn((x, k), self.first, start, &mut columns);
            for (to, column) in self.lines.chunks_exact_mut(self.per_row).zip(&columns) {
                dot.convert(&column[..count], &mut numbers_mut(to)[start..start + count]);
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
