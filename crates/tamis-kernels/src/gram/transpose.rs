//! Rows to columns: `out[j, i] = x[i, j]`, as plain f32 or as a dot product's operand.
//! The trick: squares of `SIDE` values, so that lines read and lines written both stay
//! in the L1 cache while they are used.

use crate::aligned::{Aligned, Line, numbers, numbers_mut, row_lines};
use crate::linear::{Dot, DotKernel, Operand, Precision, run_dot};
use crate::pool::Cpu;

/// Columns of x in a task.
const SIDE: usize = 16;
/// Rows of x that are turned before they are converted: their f32 fit the L1 cache.
const RUN: usize = 256;

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
        for start in (0..m).step_by(RUN) {
            let count = RUN.min(m - start);
            for (j, to) in out.chunks_exact_mut(m).enumerate() {
                gather(&x[start * k + task * SIDE + j..], k, &mut to[start..start + count]);
            }
        }
    });
}

/// `to[i] = from[i * stride]`.
fn gather(from: &[f32], stride: usize, to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from.iter().step_by(stride)) {
        *to = *from;
    }
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
        let mut column = [0.0; RUN];
        for start in (0..m).step_by(RUN) {
            let count = RUN.min(m - start);
            for (j, to) in self.lines.chunks_exact_mut(self.per_row).enumerate() {
                gather(&x[start * k + self.first + j..], k, &mut column[..count]);
                dot.convert(&column[..count], &mut numbers_mut(to)[start..start + count]);
            }
        }
    }
}
