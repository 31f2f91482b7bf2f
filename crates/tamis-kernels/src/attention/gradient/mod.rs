//! The gradient of causal attention over one whole sequence. With `S = scale q k^T` capped to
//! `c tanh(S / c)`, `P = softmax(S)` and `out = P v`:
//! `dP = dout v^T`, `D_i = sum_j P_ij dP_ij`, `dS = P (dP - D) (1 - tanh^2(S / c)) scale`,
//! `dq = dS k`, `dk = dS^T q`, `dv = P^T dout`. Knows no cache and no rotation.
//!
//! A task is one query head. It goes through blocks of queries in order, computes P of a block
//! again from the keys that it can see, and adds to sums for `dk` and `dv` that are the head's
//! own; the heads of a group are added in order. So no bit depends on the threads. Sums are
//! short, so the products keep their results in lanes (`outer`).

mod block;
mod operands;

use std::cell::Cell;

use super::AttentionParams;
use crate::aligned::Aligned;
use crate::linear::{Precision, run_dot};
use crate::pool::{Cpu, Disjoint};
use operands::{Buffers, Operands};

/// What attention was taken of: `m` positions from 0 on.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Queries `[m, heads * head_dim]`.
    pub q: &'a [f32],
    /// Keys `[m, kv_heads * head_dim]`.
    pub k: &'a [f32],
    /// Values, of the same shape.
    pub v: &'a [f32],
}

/// Where the gradients go; they are overwritten.
#[derive(Debug)]
pub struct SequenceGradient<'a> {
    /// Of the queries.
    pub q: &'a mut [f32],
    /// Of the keys.
    pub k: &'a mut [f32],
    /// Of the values.
    pub v: &'a mut [f32],
}

thread_local! {
    /// The calling thread's operands.
    static OPERANDS: Cell<Buffers> = const { Cell::new([const { Aligned::new() }; 8]) };
    /// The calling thread's sums of `dk` and of `dv`, `[heads][m][head_dim in whole vectors]`.
    static SUMS: Cell<[Aligned; 2]> = const { Cell::new([const { Aligned::new() }; 2]) };
}

/// The gradient of attention over the positions of `input`, each of which sees itself and those
/// before it as `params` say, for the gradient `dout [m, heads * head_dim]` of its result. With
/// `Precision::Bf16` the operands of all products are rounded, the weights among them.
///
/// # Panics
/// If shapes do not agree.
pub fn attend_gradient(
    cpu: &Cpu,
    input: Sequence<'_>,
    params: &AttentionParams,
    precision: Precision,
    dout: &[f32],
    to: SequenceGradient<'_>,
) {
    let m = check(input, params, dout, &to);
    if m == 0 {
        return;
    }
    let AttentionParams { heads, head_dim: dim, .. } = *params;
    let padded = dim.next_multiple_of(block::PAD);
    let mut buffers = OPERANDS.take();
    let operands = Operands::new(cpu, precision, input, params, dout, &mut buffers);
    let mut sums = SUMS.take();
    let [dk, dv] = sums.each_mut().map(|sums| sums.numbers::<f32>(heads * m * padded));
    let (dq, dk_out, dv_out) = (Disjoint::new(to.q), Disjoint::new(&mut *dk), Disjoint::new(&mut *dv));
    cpu.pool.run(heads, &|head| {
        let to = block::Gradients { q: &dq, k: &dk_out, v: &dv_out };
        run_dot(cpu.isa, precision, block::Head { operands: &operands, params, m, head, to });
    });
    add_heads(cpu, params, dk, to.k);
    add_heads(cpu, params, dv, to.v);
    OPERANDS.set(buffers.map(Aligned::kept));
    SUMS.set(sums.map(Aligned::kept));
}

/// Compares all shapes; gives the number of positions.
fn check(input: Sequence<'_>, params: &AttentionParams, dout: &[f32], to: &SequenceGradient<'_>) -> usize {
    let AttentionParams { heads, kv_heads, head_dim, .. } = *params;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let q = input.q.len();
    assert!(width > 0 && q.is_multiple_of(width), "{q} values are no rows of {width}");
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads do not share {kv_heads}");
    assert!(params.window != Some(0), "a window of no positions");
    let m = q / width;
    assert!(dout.len() == q && to.q.len() == q, "dout and dq must be {m}x{width}");
    for len in [input.k.len(), input.v.len(), to.k.len(), to.v.len()] {
        assert_eq!(len, m * kv_width, "keys, values and their gradients must be {m}x{kv_width}");
    }
    m
}

/// `to [m, kv_heads, head_dim]` becomes the sum over the heads of a group, in order, of `sums
/// [heads, m, head_dim in whole vectors]`.
fn add_heads(cpu: &Cpu, params: &AttentionParams, sums: &[f32], to: &mut [f32]) {
    let (dim, group) = (params.head_dim, params.heads / params.kv_heads);
    let (width, padded) = (params.kv_heads * dim, dim.next_multiple_of(block::PAD));
    let m = to.len() / width;
    cpu.pool.run_chunks(to, width, &|position, to| {
        for (kv, to) in to.chunks_exact_mut(dim).enumerate() {
            let of = |head: usize| &sums[(head * m + position) * padded..][..dim];
            to.copy_from_slice(of(kv * group));
            for head in kv * group + 1..(kv + 1) * group {
                to.iter_mut().zip(of(head)).for_each(|(to, sum)| *to += sum);
            }
        }
    });
}

#[cfg(test)]
mod tests;
