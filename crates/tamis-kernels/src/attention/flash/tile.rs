//! Some query rows of one key-value head, block after block of keys. Knows no threads.
//!
//! For the positions `t` of a block: `s_t = scale log2(e) q . k_t`; `top_b = max s`;
//! `p_t = 2^(s_t - top_b)`. What a block gives, the sum of `p_t` and that of `p_t v_t`, is added to
//! what came before, both under the larger of the two tops (online softmax: Milakov, Gimelshein, arXiv:1805.02867; over blocks:
//! Dao et al., FlashAttention, arXiv:2205.14135). Every row goes over whole blocks, with
//! `p_t = 0` where it may not look: its arithmetic is fixed by its own position.
//!
//! The trick: a register tile of rows goes through the lines of keys (values) together;
//! with the heads of a group among its rows, no line is loaded for each head.

use std::cell::RefCell;
use std::ops::Range;

use super::operand::{self, Operand, OperandKernel};
use super::view::{Room, View};
use super::{record, visits};
use crate::aligned::{AHEAD, Aligned, Plain, prefetch};
use crate::attention::AttentionParams;
use crate::attention::blocks::{BLOCK, Blocks, PAIR_LINE};
use crate::attention::queries::Tile;
use crate::isa::Isa;
use crate::lanes::{Lanes, tanh};

thread_local! {
    /// A thread's buffers.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

struct Scratch {
    queries: Aligned,
    padded: Aligned,
    factors: Aligned,
    record: Aligned,
    room: Room,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            queries: Aligned::new(),
            padded: Aligned::new(),
            factors: Aligned::new(),
            record: Aligned::new(),
            room: Room::new(),
        }
    }
}

/// What one task computes.
pub(super) struct Task<'a> {
    pub(super) tile: Tile<'a>,
    pub(super) blocks: &'a Blocks,
    pub(super) chunks: Range<usize>,
}

/// Fills `records`, one a row, with what the rows see in the chunks of the task.
pub(super) fn gather(isa: Isa, task: &Task<'_>, records: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let blocks = task.blocks;
        operand::run(isa, (blocks.code, blocks.key_width()), Gather { task, records, scratch });
    });
}

struct Gather<'a> {
    task: &'a Task<'a>,
    records: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl OperandKernel for Gather<'_> {
    #[inline(always)]
    fn run<O: Operand>(self, o: O) {
        let Self { task, records, scratch } = self;
        let Scratch { queries, padded, factors, record, room } = scratch;
        let count = task.tile.rows.len();
        let stride = task.blocks.key_width().next_multiple_of(PAIR_LINE);
        let queries = queries.numbers::<O::Number>(count * stride);
        let factors = factors.numbers(count);
        round_queries(o, task, (&mut *queries, &mut *factors), padded.numbers(stride));
        let reach = task.tile.reach();
        let size = record::size(task.blocks.value_width());
        let parts = record.numbers(count * size);
        let visible: Vec<_> = (0..count).map(|row| task.tile.visible(row)).collect();
        records.chunks_exact_mut(size).for_each(record::clear);
        let mut rows = Rows { scores: [[0.0; BLOCK]; TALLEST], weights: [[O::Number::ZERO; BLOCK]; TALLEST] };
        for chunk in task.chunks.clone() {
            parts.chunks_exact_mut(size).for_each(record::clear);
            for block in visits::blocks(&reach, chunk) {
                let view = View::of(o, task.blocks, (block, task.tile.head), &visible[0], room);
                let work = Work { task, view, visible: &visible, queries, factors, stride, size };
                visit(o, work, &mut rows, parts);
            }
            for (record, part) in records.chunks_exact_mut(size).zip(parts.chunks_exact(size)) {
                record::join(o.sums(), record, part);
            }
        }
    }
}

/// The rows' queries as the products want them, each padded with zeros to a whole line, and
/// the factors on their products.
#[inline(always)]
fn round_queries<O: Operand>(
    o: O,
    task: &Task<'_>,
    (to, factors): (&mut [O::Number], &mut [f32]),
    padded: &mut [f32],
) {
    padded.fill(0.0);
    let step = 2 * O::Sums::WIDTH;
    for (row, to) in to.chunks_exact_mut(padded.len()).enumerate() {
        let query = task.tile.query(row);
        padded[..query.len()].copy_from_slice(query);
        factors[row] = factor(task.tile.params);
        if let Some(whole) = O::WHOLE {
            let largest = query.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let inverse = inverse(largest / whole);
            padded.iter_mut().for_each(|x| *x *= inverse);
            // What is not finite is so in its factor.
            factors[row] *= query.iter().fold(largest / whole, |unit, x| unit + 0.0 * x);
        }
        for (from, to) in padded.chunks_exact(step).zip(to.chunks_exact_mut(step)) {
            let (low, high) = from.split_at(step / 2);
            // SAFETY: `to` has `step` numbers.
            unsafe { o.put(to.as_mut_ptr(), [o.sums().load(low), o.sums().load(high)]) };
        }
    }
}

/// `1 / unit`; 0 where that is no number: then all is less than the smallest normal number.
#[inline(always)]
fn inverse(unit: f32) -> f32 {
    let inverse = 1.0 / unit;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// All rows of a task and one block.
struct Work<'a, N, S> {
    task: &'a Task<'a>,
    view: View<'a, S>,
    visible: &'a [Range<usize>],
    /// `[rows, stride]`.
    queries: &'a [N],
    /// On the products of each row, so that they become powers of two or fit for the cap.
    factors: &'a [f32],
    stride: usize,
    /// Numbers of a record.
    size: usize,
}

/// Takes the block into the records of all rows that see any of it.
#[inline(always)]
fn visit<O: Operand>(o: O, work: WorkOf<'_, O>, room: &mut Rows<O::Number>, records: &mut [f32]) {
    let (count, mut first) = (work.visible.len(), 0);
    while first < count {
        let tall = match (count - first).min(O::ROWS) {
            5 => 4,
            tall => tall,
        };
        let seen = work.visible[first].start..work.visible[first + tall - 1].end;
        if !visits::within(&seen, work.view.block).is_empty() {
            let records = &mut records[first * work.size..][..tall * work.size];
            match tall {
                1 => rows::<O, 1>(o, &work, first, room, records),
                2 => rows::<O, 2>(o, &work, first, room, records),
                3 => rows::<O, 3>(o, &work, first, room, records),
                4 => rows::<O, 4>(o, &work, first, room, records),
                _ => rows::<O, 6>(o, &work, first, room, records),
            }
        }
        first += tall;
    }
}

/// Scores or weights of one row in one block.
type Row<T> = [T; BLOCK];

/// Rows of the tallest register tile.
const TALLEST: usize = 6;

/// Scores and weights of a register tile.
#[repr(align(64))]
struct Rows<N> {
    scores: [Row<f32>; TALLEST],
    weights: [Row<N>; TALLEST],
}

/// A vector of f32.
type Floats<O> = <<O as Operand>::Sums as Lanes>::F;
/// Factors on the values that a record holds, and on those of a block.
type Factors<O> = [Floats<O>; 2];
/// Work with the numbers of an operand.
type WorkOf<'a, O> = Work<'a, <O as Operand>::Number, <O as Operand>::Stored>;

/// The block for R rows from row `first` on: each step for all rows before the next, so that
/// none waits for the chain of one row.
#[inline(always)]
fn rows<O: Operand, const R: usize>(
    o: O,
    work: &WorkOf<'_, O>,
    first: usize,
    room: &mut Rows<O::Number>,
    records: &mut [f32],
) {
    let scores: &mut [Row<f32>; R] = room.scores.first_chunk_mut().expect("R is TALLEST at most");
    let weights: &mut [Row<O::Number>; R] = room.weights.first_chunk_mut().expect("as above");
    let queries = &work.queries[first * work.stride..][..R * work.stride];
    let factors = &work.factors[first..first + R];
    if O::VECTORS == 4 {
        multiply_keys::<O, R, 4>(o, (queries, factors), work, scores);
    } else {
        multiply_keys::<O, R, 2>(o, (queries, factors), work, scores);
    }
    let mut units = [1.0; R];
    for r in 0..R {
        let seen = visits::within(&work.visible[first + r], work.view.block);
        units[r] = work.view.unit::<O>(seen.clone());
        finish_scores(o.sums(), work, seen, &mut scores[r]);
    }
    let factors = weigh(o, work, (scores, &units), weights, records);
    let vectors = work.task.blocks.value_width() / O::Sums::WIDTH;
    let mut at = 0;
    while at < vectors {
        match vectors - at {
            4.. if O::VECTORS == 4 => {
                add_values::<O, R, 4>(o, work, (weights, &factors), at, records);
                at += 4;
            }
            2.. => {
                add_values::<O, R, 2>(o, work, (weights, &factors), at, records);
                at += 2;
            }
            _ => {
                add_values::<O, R, 1>(o, work, (weights, &factors), at, records);
                at += 1;
            }
        }
    }
}

/// `sums[r][j] += sum_s a_r[s] b_j[s]` over `lines` lines, two steps each.
///
/// # Safety
/// `a` points at R rows of `2 lines` numbers, `stride` apart; each `b` at as many lines, or
/// at a later vector of columns in the first of them.
#[inline(always)]
unsafe fn multiply<O: Operand, const R: usize, const N: usize>(
    o: O,
    (a, stride): (*const O::Number, usize),
    b: [*const O::Stored; N],
    lines: usize,
    sums: &mut [[O::Sum; N]; R],
) {
    let mut all = *sums;
    for line in 0..lines {
        // No closures here: those that are not inlined lack the instruction set.
        // SAFETY: `line < lines`, and the caller's promise.
        let mut columns = [unsafe { o.load(b[0].add(line * PAIR_LINE)) }; N];
        for j in 1..N {
            // SAFETY: as above.
            columns[j] = unsafe { o.load(b[j].add(line * PAIR_LINE)) };
        }
        if R < O::ROWS {
            // Few rows wait for memory, many for the products.
            for j in 0..N {
                prefetch(b[j].wrapping_add(line * PAIR_LINE + 2 * AHEAD / size_of::<O::Stored>()));
            }
        }
        for r in 0..R {
            // SAFETY: as above.
            let a = unsafe { o.splat(a.add(r * stride + 2 * line)) };
            for j in 0..N {
                all[r][j] = o.multiply_add(a, columns[j], all[r][j]);
            }
        }
    }
    *sums = all;
}

/// Pointers to the first lines of N vectors of columns from vector `first` on; columns
/// stand in runs of 16, each `run` lines long.
#[inline(always)]
fn columns<O: Operand, const N: usize>(
    lines: &[O::Stored],
    first: usize,
    run: usize,
) -> [*const O::Stored; N] {
    let mut all = [lines.as_ptr(); N];
    for j in 0..N {
        let column = (first + j) * O::Sums::WIDTH;
        all[j] = lines[column / 16 * run * PAIR_LINE + column % 16 * O::INTERLEAVED..].as_ptr();
    }
    all
}

/// `factor_r q_r . k_t` for R rows and the 64 positions of the block.
#[inline(always)]
fn multiply_keys<O: Operand, const R: usize, const N: usize>(
    o: O,
    (queries, factors): (&[O::Number], &[f32]),
    work: &WorkOf<'_, O>,
    scores: &mut [Row<f32>; R],
) {
    let l = o.sums();
    let lines = work.task.blocks.key_width() / 2;
    assert!(queries.len() == R * work.stride && factors.len() == R && 2 * lines <= work.stride);
    assert!(work.view.keys.len() >= BLOCK * 2 * lines);
    for first in (0..BLOCK / O::Sums::WIDTH).step_by(N) {
        let keys = columns::<O, N>(work.view.keys, first, lines);
        let mut sums = [[o.zero(); N]; R];
        // SAFETY: R rows of `stride >= 2 lines` queries; four runs of `lines` lines of keys.
        unsafe { multiply(o, (queries.as_ptr(), work.stride), keys, lines, &mut sums) };
        for r in 0..R {
            let factor = l.splat(factors[r]);
            for j in 0..N {
                let score = l.mul(o.float(sums[r][j]), factor);
                l.store(&mut scores[r][(first + j) * O::Sums::WIDTH..], score);
            }
        }
    }
}

/// Turns products, scaled, into scores in powers of two, minus infinity where they are not
/// seen. They are that already where there is no cap, no code and nothing to hide.
#[inline(always)]
fn finish_scores<L: Lanes, N, S>(l: L, work: &Work<'_, N, S>, seen: Range<usize>, scores: &mut Row<f32>) {
    let softcap = work.task.tile.params.softcap;
    if softcap.is_none() && work.view.key_scales.is_none() && seen.len() == BLOCK {
        return;
    }
    let (start, end) = (l.splat(seen.start as f32), l.splat(seen.end as f32));
    let hidden = l.splat(f32::NEG_INFINITY);
    for at in (0..BLOCK).step_by(L::WIDTH) {
        let mut s = l.load(&scores[at..]);
        if let Some(scales) = work.view.key_scales {
            s = l.mul(s, l.load(&scales[at..]));
        }
        if let Some(cap) = softcap {
            s = l.mul(l.splat(cap * std::f32::consts::LOG2_E), tanh(l, s));
        }
        let position = l.load(&POSITIONS[at..]);
        s = l.select_lt(position, end, s, hidden);
        s = l.select_lt(position, start, hidden, s);
        l.store(&mut scores[at..], s);
    }
}

/// The factor on products: the scale, and what makes them powers of two or fit for the cap.
fn factor(params: &AttentionParams) -> f32 {
    params.softcap.map_or(params.scale * std::f32::consts::LOG2_E, |cap| params.scale / cap)
}

/// Turns the scores of R rows into weights; notes their sums and the largest scores in the rows'
/// records. Gives the factors on the values that the records already hold, and on those to come.
#[inline(always)]
fn weigh<O: Operand, const R: usize>(
    o: O,
    work: &WorkOf<'_, O>,
    (scores, units): (&[Row<f32>; R], &[f32; R]),
    weights: &mut [Row<O::Number>; R],
    records: &mut [f32],
) -> [Factors<O>; R] {
    let (l, width) = (o.sums(), O::Sums::WIDTH);
    let mut tops = [l.splat(record::FLOOR); R];
    for r in 0..R {
        for at in (0..BLOCK).step_by(width) {
            // The operand order lets no NaN become the largest score.
            tops[r] = l.max(l.load(&scores[r][at..]), tops[r]);
        }
    }
    let mut largest = [0.0; R];
    for r in 0..R {
        largest[r] = l.max_lane(tops[r]);
    }
    let mut factors = [[l.splat(0.0); 2]; R];
    for r in 0..R {
        let (top, mut total) = (l.splat(largest[r]), l.splat(0.0));
        let (unit, inverse) = (l.splat(units[r]), l.splat(inverse(units[r])));
        for at in (0..BLOCK).step_by(2 * width) {
            let s = [l.load(&scores[r][at..]), l.load(&scores[r][at + width..])];
            let mut p = [l.exp2(l.sub(s[0], top)), l.exp2(l.sub(s[1], top))];
            total = l.add(total, l.add(p[0], p[1]));
            if let Some(scales) = work.view.value_scales {
                let scales = [l.load(&scales[at..]), l.load(&scales[at + width..])];
                p = [l.mul(p[0], l.mul(scales[0], inverse)), l.mul(p[1], l.mul(scales[1], inverse))];
            }
            // SAFETY: `2 width` divides the 64 weights.
            unsafe { o.put(weights[r][at..].as_mut_ptr(), p) };
        }
        let [ours, theirs] = record::take(l, &mut records[r * work.size..][..work.size], largest[r], total);
        factors[r] = [ours, l.mul(theirs, unit)];
    }
    factors
}

/// 0 to 63.
static POSITIONS: Row<f32> = {
    let mut positions = [0.0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        positions[i] = i as f32;
        i += 1;
    }
    positions
};

/// `o_r = a_r o_r + b_r sum_t p_r[t] v_t` for R rows and N vectors of `d` from `first` on.
#[inline(always)]
fn add_values<O: Operand, const R: usize, const N: usize>(
    o: O,
    work: &WorkOf<'_, O>,
    (weights, factors): (&[Row<O::Number>; R], &[Factors<O>; R]),
    first: usize,
    records: &mut [f32],
) {
    let (l, width) = (o.sums(), O::Sums::WIDTH);
    let half = work.view.values.len() / 2;
    assert!(half == BLOCK / 2 * work.task.blocks.value_width());
    let mut sums = [[o.zero(); N]; R];
    for side in 0..2 {
        let values = columns::<O, N>(&work.view.values[side * half..], first, BLOCK / 4);
        let weights = weights.as_flattened()[side * BLOCK / 2..].as_ptr();
        // SAFETY: R rows of 64 weights, of which the half; runs of 16 lines of values.
        unsafe { multiply(o, (weights, BLOCK), values, BLOCK / 4, &mut sums) };
    }
    for r in 0..R {
        let values = record::values(&mut records[r * work.size..][..work.size]);
        let [ours, theirs] = factors[r];
        for j in 0..N {
            let values = &mut values[(first + j) * width..];
            let sum = l.fma(o.float(sums[r][j]), theirs, l.mul(l.load(values), ours));
            l.store(values, sum);
        }
    }
}
