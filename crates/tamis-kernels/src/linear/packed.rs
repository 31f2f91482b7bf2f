//! Packed rows: of which the lanes of a vector take columns, each `pair` rows side by side,
//! `[rows / pair][columns][pair]`. Knows no product.

use super::dot::{Dot, DotKernel, Operand, run_dot};
use super::{Precision, element_lines, of_lines};
use crate::aligned::{Aligned, Line, numbers_mut, row_lines};
use crate::pool::Cpu;

/// Columns behind the last one of a packed row: a vector that starts inside may end there.
const SPARE: usize = 16;

/// Elements that a lane takes: 2 of bf16 in hardware, else 1.
pub(crate) fn lane_elements(cpu: &Cpu, precision: Precision) -> usize {
    if element_lines(cpu, precision, 1).1 { 2 } else { 1 }
}

/// Lines of a packed row of some columns, and whether its elements are bf16 pairs.
pub(crate) fn packed_lines(cpu: &Cpu, precision: Precision, columns: usize) -> (usize, bool) {
    let room = columns + SPARE;
    match lane_elements(cpu, precision) {
        2 => (row_lines::<u16>(2 * room), true),
        _ => (row_lines::<f32>(room), false),
    }
}

/// Rows to pack: pairs do not cross a group of rows.
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) width: usize,
    pub(crate) group: usize,
}

/// Pairs of rows side by side: the right operand of `outer`.
pub(crate) fn pack<'a>(
    cpu: &Cpu,
    precision: Precision,
    x: Matrix<'_>,
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let (per_row, pairs) = packed_lines(cpu, precision, x.width);
    let pair = if pairs { 2 } else { 1 };
    let per_group = x.group.div_ceil(pair);
    let count = x.values.len() / (x.width * x.group) * per_group;
    let lines = buffer.lines(count * per_row);
    cpu.pool.run_chunks(lines, per_row, &|row, lines| {
        let start = row / per_group * x.group;
        let first = start + row % per_group * pair;
        let row = |i: usize| if i < start + x.group { &x.values[i * x.width..][..x.width] } else { &[] };
        run_dot(cpu.isa, precision, Pack { rows: [row(first), row(first + 1)], lines });
    });
    of_lines(lines, (per_row, pairs))
}

/// Packs one row or two.
struct Pack<'a> {
    rows: [&'a [f32]; 2],
    lines: &'a mut [Line],
}

impl DotKernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let to = numbers_mut::<D::Element>(self.lines);
        dot.interleave(self.rows, &mut to[..self.rows[0].len() * D::LANE]);
    }
}
