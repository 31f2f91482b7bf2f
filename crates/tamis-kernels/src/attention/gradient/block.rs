//! The gradient of one query head, a block of queries at a time. Knows no threads.
//!
//! For a block: S and dP of all keys that it can see, `[queries, keys]`; row by row P and dS in
//! their places; then both as pairs of rows, for the sums over queries.

use std::cell::Cell;
use std::ops::Range;

use super::operands::Operands;
use crate::aligned::{Aligned, row_lines};
use crate::attention::AttentionParams;
use crate::lanes::{Lanes, exp, tanh};
use crate::linear::{Dot, DotKernel, Left, Mode, Operand, Place, Right, Size, outer};
use crate::pool::Disjoint;

/// Queries in a block: whole tiles of any instruction set, whole pairs.
const BLOCK: usize = 144;
/// Queries whose scores are computed together: later keys than theirs are left out.
const STEP: usize = 48;
/// Rows of scores start and end at a multiple of this: whole vectors of any width.
pub(super) const PAD: usize = 16;

thread_local! {
    /// A thread's S (then P), dP (then dS), slopes of the cap, rounded weights, and `dq`.
    static SCRATCH: Cell<[Aligned; 5]> = const { Cell::new([const { Aligned::new() }; 5]) };
}

/// Where a head adds: `dq [m, heads * head_dim]`, `dk` and `dv [heads * m, head_dim in whole
/// vectors]`.
#[derive(Clone, Copy)]
pub(super) struct Gradients<'a> {
    pub(super) q: &'a Disjoint<'a, f32>,
    pub(super) k: &'a Disjoint<'a, f32>,
    pub(super) v: &'a Disjoint<'a, f32>,
}

/// One query head.
pub(super) struct Head<'a> {
    pub(super) operands: &'a Operands<'a>,
    pub(super) params: &'a AttentionParams,
    /// Positions.
    pub(super) m: usize,
    pub(super) head: usize,
    pub(super) to: Gradients<'a>,
}

/// A block of queries, the keys it can see, and its buffers, `stride` apart from row to row.
struct Block<'a> {
    queries: Range<usize>,
    keys: Range<usize>,
    stride: usize,
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    d_scores: &'a mut [f32],
}

impl DotKernel for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let own = self.m * self.padded();
        for sums in [self.to.k, self.to.v] {
            // SAFETY: every head has sums of its own.
            unsafe { sums.slice(self.head * own, own) }.fill(0.0);
        }
        // Taken, not borrowed in a closure: a closure would not be compiled for the
        // instruction set of this function.
        let mut buffers = SCRATCH.take();
        for first in (0..self.m).step_by(BLOCK) {
            let queries = first..(first + BLOCK).min(self.m);
            let keys = self.seen(first).start / PAD * PAD..queries.end;
            // Room for the vector that the last key is in.
            let stride = row_lines::<f32>(keys.len().next_multiple_of(PAD)) * 16;
            let [scores, d_scores, slopes, rounded, dq] = &mut buffers;
            let mut block = Block {
                scores: scores.numbers(queries.len() * stride),
                d_scores: d_scores.numbers(queries.len() * stride),
                slopes: slopes.numbers(stride),
                queries,
                keys,
                stride,
            };
            self.score(dot, &mut block);
            for row in 0..block.queries.len() {
                self.weigh(dot.sums(), &mut block, row);
            }
            self.add_keys(dot, &block, rounded);
            self.set_queries(dot, &block, rounded, dq);
        }
        SCRATCH.set(buffers);
    }
}

impl Head<'_> {
    /// The positions that a query sees.
    fn seen(&self, query: usize) -> Range<usize> {
        let first = self.params.window.map_or(0, |window| (query + 1).saturating_sub(window));
        first..query + 1
    }
    /// The head of keys and values.
    fn kv_head(&self) -> usize {
        self.head * self.params.kv_heads / self.params.heads
    }
    /// Columns of a head in whole vectors.
    fn padded(&self) -> usize {
        self.params.head_dim.next_multiple_of(PAD)
    }

    /// `S = q k^T` and `dP = dout v^T`, without scale and cap.
    #[inline(always)]
    fn score<D: Dot>(&self, dot: D, block: &mut Block<'_>) {
        let (operands, dim) = (self.operands, self.params.head_dim);
        let (pair, depth) = (operands.pair, dim.div_ceil(operands.pair));
        let pairs = [
            (operands.q, operands.k_turned, &mut *block.scores),
            (operands.dout, operands.v_turned, &mut *block.d_scores),
        ];
        for (a, b, scores) in pairs {
            for first in block.queries.clone().step_by(STEP) {
                let queries = first..(first + STEP).min(block.queries.end);
                // Whole vectors: what stands before the first key that is seen is overwritten.
                let start = (self.seen(first).start / PAD * PAD).max(block.keys.start);
                let a = Left {
                    elements: &a.elements::<D::Element>()
                        [(first * self.params.heads + self.head) * a.stride..],
                    row: self.params.heads * a.stride,
                    step: pair,
                };
                let b = columns::<D>(b, self.kv_head() * depth, start * pair);
                let size = Size { rows: queries.len(), columns: queries.end - start, depth };
                let at = (first - block.queries.start) * block.stride + start - block.keys.start;
                let to = Place { values: &mut scores[at..], stride: block.stride };
                outer(dot, size, a, b, Mode::Set, to);
            }
        }
    }

    /// A row of S becomes P, and its row of dP becomes dS:
    /// `P = e^(S - max) / sum`, `D = sum P dP`, `dS = P (dP - D) slope scale`.
    #[inline(always)]
    fn weigh<L: Lanes>(&self, l: L, block: &mut Block<'_>, row: usize) {
        let seen = self.seen(block.queries.start + row);
        let seen = seen.start - block.keys.start..seen.end - block.keys.start;
        let scores = &mut block.scores[row * block.stride..][..block.stride];
        let d_scores = &mut block.d_scores[row * block.stride..][..block.stride];
        for outside in [0..seen.start, seen.end..block.stride] {
            scores[outside.clone()].fill(0.0);
            d_scores[outside].fill(0.0);
        }
        let whole = seen.start / PAD * PAD..seen.end.next_multiple_of(PAD);
        let (s, d) = (&mut scores[whole.clone()], &mut d_scores[whole.clone()]);
        let slopes = &mut block.slopes[..s.len()];
        self.cap(l, s, slopes);
        s[..seen.start - whole.start].fill(f32::NEG_INFINITY);
        s[seen.end - whole.start..].fill(f32::NEG_INFINITY);
        let mut top = l.splat(f32::NEG_INFINITY);
        for s in s.chunks_exact(L::WIDTH) {
            top = l.max(l.load(s), top);
        }
        let top = l.splat(l.max_lane(top));
        let (mut sum, mut weighted) = (l.splat(0.0), l.splat(0.0));
        for (s, d) in s.chunks_exact_mut(L::WIDTH).zip(d.chunks_exact(L::WIDTH)) {
            let e = exp(l, l.sub(l.load(s), top));
            sum = l.add(sum, e);
            weighted = l.fma(e, l.load(d), weighted);
            l.store(s, e);
        }
        let share = 1.0 / l.sum(sum);
        let mean = l.splat(l.sum(weighted) * share);
        let (share, scale) = (l.splat(share), l.splat(self.params.scale));
        let places = s.chunks_exact_mut(L::WIDTH).zip(d.chunks_exact_mut(L::WIDTH));
        for ((s, d), slope) in places.zip(slopes.chunks_exact(L::WIDTH)) {
            let p = l.mul(l.load(s), share);
            let slope = if self.params.softcap.is_some() { l.mul(scale, l.load(slope)) } else { scale };
            let ds = l.mul(l.mul(p, l.sub(l.load(d), mean)), slope);
            l.store(s, p);
            l.store(d, ds);
        }
    }

    /// Scales scores, and caps them: `s = c tanh(s / c)`, whose slope is `1 - tanh^2(s / c)`.
    #[inline(always)]
    fn cap<L: Lanes>(&self, l: L, scores: &mut [f32], slopes: &mut [f32]) {
        let Some(cap) = self.params.softcap else {
            let scale = l.splat(self.params.scale);
            for s in scores.chunks_exact_mut(L::WIDTH) {
                let scaled = l.mul(l.load(s), scale);
                l.store(s, scaled);
            }
            return;
        };
        let (inner, cap, one) = (l.splat(self.params.scale / cap), l.splat(cap), l.splat(1.0));
        for (s, slope) in scores.chunks_exact_mut(L::WIDTH).zip(slopes.chunks_exact_mut(L::WIDTH)) {
            let t = tanh(l, l.mul(l.load(s), inner));
            l.store(s, l.mul(cap, t));
            l.store(slope, l.sub(one, l.mul(t, t)));
        }
    }

    /// `dv += P^T dout`, `dk += dS^T q`.
    #[inline(always)]
    fn add_keys<D: Dot>(&self, dot: D, block: &Block<'_>, buffer: &mut Aligned) {
        let (count, keys, pair) = (block.queries.len(), block.keys.len(), self.operands.pair);
        let depth = count.div_ceil(pair);
        let pairs = [
            (&*block.scores, self.operands.dout_packed, self.to.v),
            (&*block.d_scores, self.operands.q_packed, self.to.k),
        ];
        for (values, b, out) in pairs {
            let step = block.stride * pair;
            let rounded = buffer.numbers::<D::Element>(depth * step);
            for (p, to) in rounded.chunks_exact_mut(step).enumerate() {
                let row =
                    |i: usize| if i < count { &values[i * block.stride..][..block.stride] } else { &[] };
                dot.interleave([row(p * pair), row(p * pair + 1)], to);
            }
            let a = Left { elements: &*rounded, row: pair, step };
            let b = columns::<D>(b, block.queries.start / pair, self.head * self.params.head_dim * pair);
            let size = Size { rows: keys, columns: self.params.head_dim, depth };
            let first = self.head * self.m + block.keys.start;
            // SAFETY: every head has sums of its own.
            let values = unsafe { out.slice(first * self.padded(), keys * self.padded()) };
            outer(dot, size, a, b, Mode::Add, Place { values, stride: self.padded() });
        }
    }

    /// `dq = dS k`.
    #[inline(always)]
    fn set_queries<D: Dot>(&self, dot: D, block: &Block<'_>, buffer: &mut Aligned, dq: &mut Aligned) {
        let (count, pair, dim) = (block.queries.len(), self.operands.pair, self.params.head_dim);
        let rounded = buffer.numbers::<D::Element>(count * block.stride);
        dot.convert(block.d_scores, rounded);
        let a = Left { elements: &*rounded, row: block.stride, step: pair };
        let b = columns::<D>(self.operands.k_packed, block.keys.start / pair, self.kv_head() * dim * pair);
        let size = Size { rows: count, columns: dim, depth: block.keys.len().div_ceil(pair) };
        let sums = dq.numbers::<f32>(count * self.padded());
        let to = Place { values: &mut *sums, stride: self.padded() };
        outer(dot, size, a, b, Mode::Set, to);
        let to = self.to.q;
        for (query, sums) in block.queries.clone().zip(sums.chunks_exact(self.padded())) {
            // SAFETY: every row of every head belongs to one task.
            let to = unsafe { to.slice((query * self.params.heads + self.head) * dim, dim) };
            to.copy_from_slice(&sums[..dim]);
        }
    }
}

/// An operand from a packed row and an element of it on.
#[inline(always)]
fn columns<D: Dot>(of: Operand<'_>, row: usize, element: usize) -> Right<'_, D::Element> {
    Right { elements: &of.elements::<D::Element>()[row * of.stride + element..], step: of.stride }
}
