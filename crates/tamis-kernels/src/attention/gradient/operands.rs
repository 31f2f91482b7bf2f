//! What the products of the gradient multiply, made once for all heads. Knows no product.

use super::Sequence;
use crate::aligned::{Aligned, Line, numbers_mut, row_lines};
use crate::attention::AttentionParams;
use crate::linear::{Dot, DotKernel, Operand, Precision, element_lines, of_lines, run_dot};
use crate::pool::Cpu;
use crate::transpose::transpose;

/// Columns behind the last one of a packed row: a vector that starts inside may end there.
const SPARE: usize = 16;

/// Buffers that are kept from call to call.
pub(super) type Buffers = [Aligned; 8];

/// Rows of positions, `[m][heads][columns]`, whose numbers are broadcast; and packed rows, of
/// which a lane takes `pair` side by side: `[m / pair][width][pair]` of positions, and `[heads *
/// columns / pair][m][pair]` of turned ones, where `columns` is `head_dim` in whole pairs.
pub(super) struct Operands<'a> {
    pub(super) q: Operand<'a>,
    pub(super) dout: Operand<'a>,
    pub(super) q_packed: Operand<'a>,
    pub(super) dout_packed: Operand<'a>,
    pub(super) k_packed: Operand<'a>,
    pub(super) k_turned: Operand<'a>,
    pub(super) v_turned: Operand<'a>,
    /// Numbers that a lane takes: 2 of bf16 in hardware.
    pub(super) pair: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(
        cpu: &Cpu,
        precision: Precision,
        input: Sequence<'a>,
        params: &AttentionParams,
        dout: &'a [f32],
        buffers: &'a mut Buffers,
    ) -> Self {
        let AttentionParams { heads, kv_heads, head_dim: dim, .. } = *params;
        let (width, kv_width) = (heads * dim, kv_heads * dim);
        let m = input.q.len() / width;
        let pair = if element_lines(cpu, precision, 1).1 { 2 } else { 1 };
        let [q, d, q_packed, d_packed, k_packed, k_turned, v_turned, spare] = buffers;
        let turned = spare.numbers::<f32>(kv_width * m);
        transpose(cpu, input.k, kv_width, turned);
        let k_turned = pack(cpu, precision, Matrix { values: turned, width: m, group: dim }, k_turned);
        transpose(cpu, input.v, kv_width, turned);
        let v_turned = pack(cpu, precision, Matrix { values: turned, width: m, group: dim }, v_turned);
        let positions = |values, width| Matrix { values, width, group: m };
        Self {
            q: heads_of(cpu, precision, (input.q, dim), pair, q),
            dout: heads_of(cpu, precision, (dout, dim), pair, d),
            q_packed: pack(cpu, precision, positions(input.q, width), q_packed),
            dout_packed: pack(cpu, precision, positions(dout, width), d_packed),
            k_packed: pack(cpu, precision, positions(input.k, kv_width), k_packed),
            k_turned,
            v_turned,
            pair,
        }
    }
}

/// Heads as rows of whole pairs, with a zero behind an odd one.
fn heads_of<'a>(
    cpu: &Cpu,
    precision: Precision,
    (x, dim): (&[f32], usize),
    pair: usize,
    buffer: &'a mut Aligned,
) -> Operand<'a> {
    let columns = dim.next_multiple_of(pair);
    let lines_of = |values: usize| (values * if pair == 2 { 2 } else { 4 }).div_ceil(size_of::<Line>());
    // A task's heads are whole lines, whatever the element: 32 heads of any number of columns.
    let heads = 32;
    let lines = buffer.lines(lines_of((x.len() / dim).next_multiple_of(heads) * columns));
    cpu.pool.run_chunks(lines, lines_of(heads * columns), &|task, lines| {
        let x = &x[task * heads * dim..];
        run_dot(cpu.isa, precision, Heads { x: &x[..x.len().min(heads * dim)], dim, columns, lines });
    });
    match pair {
        2 => Operand::new(crate::aligned::numbers::<u16>(lines), columns),
        _ => Operand::new(crate::aligned::numbers::<f32>(lines), columns),
    }
}

/// Converts heads.
struct Heads<'a> {
    x: &'a [f32],
    dim: usize,
    columns: usize,
    lines: &'a mut [Line],
}

impl DotKernel for Heads<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let to = numbers_mut::<D::Element>(self.lines).chunks_exact_mut(self.columns);
        for (from, to) in self.x.chunks_exact(self.dim).zip(to) {
            dot.convert(from, &mut to[..self.dim]);
            to[self.dim..].fill(D::ZERO);
        }
    }
}

/// Rows to pack: pairs do not cross a group of rows.
struct Matrix<'a> {
    values: &'a [f32],
    width: usize,
    group: usize,
}

/// Pairs of rows side by side.
fn pack<'a>(cpu: &Cpu, precision: Precision, x: Matrix<'_>, buffer: &'a mut Aligned) -> Operand<'a> {
    let (_, pairs) = element_lines(cpu, precision, 1);
    let (pair, room) = (if pairs { 2 } else { 1 }, x.width + SPARE);
    let per_row = if pairs { row_lines::<u16>(2 * room) } else { row_lines::<f32>(room) };
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
        let lane = D::STEP / <D::Sums as crate::lanes::Lanes>::WIDTH;
        let to = numbers_mut::<D::Element>(self.lines);
        dot.interleave(self.rows, &mut to[..self.rows[0].len() * lane]);
    }
}
