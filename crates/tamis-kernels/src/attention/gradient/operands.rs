//! What the products of the gradient multiply, made once for all heads. Knows no product.

use super::Sequence;
use crate::aligned::{Aligned, Line, numbers_mut};
use crate::attention::AttentionParams;
use crate::gram::transpose;
use crate::linear::{Dot, DotKernel, Matrix, Operand, Precision, lane_elements, pack, run_dot};
use crate::pool::Cpu;

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
        let pair = lane_elements(cpu, precision);
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
