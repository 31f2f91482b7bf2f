//! Some query rows of one key-value head over f32 keys and values. Knows no threads.
//!
//! Three passes: scores of all visible positions; softmax, row by row; weighted values,
//! or, in place of these, the sum of the weights by position. The trick of the first and
//! last: up to 8 rows go through the keys (values) together, and a run of `RUN` positions
//! is used by all rows before the next.

use std::cell::RefCell;
use std::ops::Range;

use super::queries::Tile;
use super::rows::{BLOCK, Rows};
use crate::aligned::{Aligned, row_lines};
use crate::isa::{Isa, per_isa};
use crate::lanes::{Lanes, exp, tanh};
use crate::pool::Disjoint;

/// Positions whose keys or values stay in the L1 cache for all rows of a task.
const RUN: usize = 128;

thread_local! {
    /// A thread's queries, scores and sums of values.
    static SCRATCH: RefCell<[Aligned; 3]> =
        const { RefCell::new([Aligned::new(), Aligned::new(), Aligned::new()]) };
}

/// What becomes of the weights of a task's rows.
pub(super) enum Sink<'a> {
    /// They weigh the values; every row of every head is written where its query stands.
    Values(&'a Disjoint<'a, f32>),
    /// They are added up by position, to one number for each position of the cache.
    Received(&'a mut [f32]),
}

/// What one task computes.
pub(super) struct Task<'a> {
    pub(super) tile: Tile<'a>,
    pub(super) cache: &'a Rows,
}

/// Computes the rows of a task.
pub(super) fn run(isa: Isa, task: Task<'_>, sink: Sink<'_>) {
    SCRATCH.with_borrow_mut(|[q, scores, sums]| {
        let (count, dim) = (task.tile.rows.len(), task.tile.params.head_dim);
        let visible: Vec<_> = (0..count).map(|row| task.tile.visible(row)).collect();
        let origin = visible[0].start / BLOCK * BLOCK;
        let positions = visible[count - 1].end.next_multiple_of(BLOCK) - origin;
        let stride = row_lines::<f32>(positions) * BLOCK;
        let padded = dim.next_multiple_of(BLOCK);
        let sums = sums.numbers::<f32>(count * padded);
        sums.fill(0.0);
        let work = Work {
            q: task.scaled_queries(q.numbers(count * dim)),
            scores: scores.numbers(count * stride),
            sums,
            visible: &visible,
            origin,
            stride,
        };
        passes(isa, &task, work, sink);
    });
}

impl Task<'_> {
    /// The rows' queries, times the scale.
    fn scaled_queries<'b>(&self, to: &'b mut [f32]) -> &'b [f32] {
        let params = self.tile.params;
        for (row, to) in to.chunks_exact_mut(params.head_dim).enumerate() {
            to.iter_mut().zip(self.tile.query(row)).for_each(|(to, q)| *to = q * params.scale);
        }
        to
    }
}

/// The buffers of a task; scores start at position `origin`, rows `stride` apart.
struct Work<'a> {
    q: &'a [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    visible: &'a [Range<usize>],
    origin: usize,
    stride: usize,
}

per_isa! {
    fn passes<L>(l, task: &Task<'_>, work: Work<'_>, sink: Sink<'_>) {
        let mut work = work;
        let count = work.visible.len();
        let tall = if L::WIDTH == 16 { 8 } else { 4 };
        let all = work.origin..work.visible[count - 1].end;
        for from in all.clone().step_by(RUN) {
            for first in (0..count).step_by(tall) {
                let rows = first..(first + tall).min(count);
                score_run(l, task, &mut work, rows, from..(from + RUN).min(all.end));
            }
        }
        let mut shares = [0.0; super::TASK_ROWS];
        for row in 0..count {
            shares[row] = 1.0 / softmax(l, task.tile.params.softcap, &mut work, row);
        }
        let out = match sink {
            Sink::Values(out) => out,
            Sink::Received(sums) => return receive(&work, &shares, sums),
        };
        for from in all.clone().step_by(RUN) {
            for first in (0..count).step_by(tall) {
                let rows = first..(first + tall).min(count);
                weigh_run(l, task, &mut work, rows, from..(from + RUN).min(all.end));
            }
        }
        let dim = task.tile.params.head_dim;
        let padded = dim.next_multiple_of(BLOCK);
        for (row, sums) in work.sums.chunks_exact(padded).enumerate() {
            // SAFETY: every row of every head belongs to one task.
            let out = unsafe { out.slice(task.tile.offset(row), dim) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * shares[row]);
        }
    }
}

/// Adds every row's weights to the positions they belong to.
#[inline(always)]
fn receive(work: &Work<'_>, shares: &[f32], sums: &mut [f32]) {
    for (row, seen) in work.visible.iter().enumerate() {
        let weights = &work.scores[row * work.stride + seen.start - work.origin..][..seen.len()];
        for (sum, weight) in sums[seen.clone()].iter_mut().zip(weights) {
            *sum += weight * shares[row];
        }
    }
}

/// Scores of rows by the blocks of a run that the rows can see at all.
#[inline(always)]
fn score_run<L: Lanes>(l: L, task: &Task<'_>, work: &mut Work<'_>, rows: Range<usize>, run: Range<usize>) {
    let first = run.start.max(work.visible[rows.start].start / BLOCK * BLOCK);
    let end = run.end.min(work.visible[rows.end - 1].end);
    let mut at = first;
    while at < end {
        // Two vectors at a time: one block of 16 in 8 lanes, two blocks in 16 lanes.
        let wide = if L::WIDTH == 16 && end - at > BLOCK { 2 * BLOCK } else { BLOCK };
        let near = task.cache.key_block(at / BLOCK, task.tile.head);
        let far = match (L::WIDTH, wide) {
            (16, BLOCK) => near,
            (16, _) => task.cache.key_block(at / BLOCK + 1, task.tile.head),
            _ => &near[L::WIDTH..],
        };
        match rows.len() {
            1 => score::<L, 1>(l, work, rows.clone(), at..at + wide, [near, far]),
            2 => score::<L, 2>(l, work, rows.clone(), at..at + wide, [near, far]),
            3 | 4 => score::<L, 4>(l, work, rows.clone(), at..at + wide, [near, far]),
            _ => score::<L, 8>(l, work, rows.clone(), at..at + wide, [near, far]),
        }
        at += wide;
    }
}

/// `s[r, t] = q_r . k_t` for R rows and the two vectors of positions of `span`; rows
/// behind the last repeat it. Where `span` is one vector, the second is not stored.
#[inline(always)]
fn score<L: Lanes, const R: usize>(
    l: L,
    work: &mut Work<'_>,
    rows: Range<usize>,
    span: Range<usize>,
    keys: [&[f32]; 2],
) {
    let dim = work.q.len() / work.visible.len();
    let mut q: [&[f32]; R] = [&[]; R];
    for (r, q) in q.iter_mut().enumerate() {
        *q = &work.q[(rows.start + r).min(rows.end - 1) * dim..][..dim];
    }
    let mut sums = [[l.splat(0.0); 2]; R];
    assert!(keys.iter().all(|k| k.len() >= (dim - 1) * BLOCK + L::WIDTH));
    for d in 0..dim {
        // SAFETY: `keys` reach to the last vector of `dim`, and `q` rows have `dim` values.
        let (near, far) = unsafe {
            (l.load_ptr(keys[0].as_ptr().add(d * BLOCK)), l.load_ptr(keys[1].as_ptr().add(d * BLOCK)))
        };
        for r in 0..R {
            // SAFETY: as above.
            let q = l.splat(unsafe { *q[r].get_unchecked(d) });
            sums[r] = [l.fma(q, near, sums[r][0]), l.fma(q, far, sums[r][1])];
        }
    }
    for r in 0..R {
        let row = (rows.start + r).min(rows.end - 1);
        let to = &mut work.scores[row * work.stride + span.start - work.origin..][..span.len()];
        l.store(to, sums[r][0]);
        if span.len() > L::WIDTH {
            l.store(&mut to[L::WIDTH..], sums[r][1]);
        }
    }
}

/// Turns a row's scores into `e^(s - max)` over the positions it sees; gives their sum.
#[inline(always)]
fn softmax<L: Lanes>(l: L, softcap: Option<f32>, work: &mut Work<'_>, row: usize) -> f32 {
    let (seen, base) = (&work.visible[row], row * work.stride);
    let (first, end) = (seen.start / BLOCK * BLOCK, seen.end.next_multiple_of(BLOCK));
    let scores = &mut work.scores[base + first - work.origin..][..end - first];
    scores[..seen.start - first].fill(f32::NEG_INFINITY);
    scores[seen.end - first..].fill(f32::NEG_INFINITY);
    if let Some(cap) = softcap {
        let (cap, inverse) = (l.splat(cap), l.splat(1.0 / cap));
        for s in scores[..seen.end - first].chunks_mut(L::WIDTH) {
            let whole = s.len() == L::WIDTH;
            let v = if whole { l.load(s) } else { l.load_short(s) };
            let v = l.mul(cap, tanh(l, l.mul(v, inverse)));
            if whole { l.store(s, v) } else { l.store_short(s, v) }
        }
        scores[..seen.start - first].fill(f32::NEG_INFINITY);
    }
    let mut top = l.splat(f32::NEG_INFINITY);
    for s in scores.chunks_exact(L::WIDTH) {
        top = l.max(l.load(s), top);
    }
    let top = l.splat(l.max_lane(top));
    let mut sums = l.splat(0.0);
    for s in scores.chunks_exact_mut(L::WIDTH) {
        let e = exp(l, l.sub(l.load(s), top));
        sums = l.add(sums, e);
        l.store(s, e);
    }
    l.sum(sums)
}

/// Adds a run's weighted values to rows, each over exactly the positions it sees.
#[inline(always)]
fn weigh_run<L: Lanes>(l: L, task: &Task<'_>, work: &mut Work<'_>, rows: Range<usize>, run: Range<usize>) {
    let shared_start = run.start.max(work.visible[rows.end - 1].start);
    let shared = shared_start..run.end.min(work.visible[rows.start].end).max(shared_start);
    // A weight of 0 is not the same as no weight: 0 times infinity is NaN. So the few
    // positions that only some rows see go row by row, before and after the shared ones.
    for row in rows.clone() {
        let seen = &work.visible[row];
        let alone = run.start.max(seen.start)..shared.start.min(seen.end);
        weigh::<L, 1>(l, task, work, row..row + 1, alone);
    }
    match rows.len() {
        1 => weigh::<L, 1>(l, task, work, rows.clone(), shared.clone()),
        2 => weigh::<L, 2>(l, task, work, rows.clone(), shared.clone()),
        3 | 4 => weigh::<L, 4>(l, task, work, rows.clone(), shared.clone()),
        _ => weigh::<L, 8>(l, task, work, rows.clone(), shared.clone()),
    }
    for row in rows {
        let seen = &work.visible[row];
        let alone = shared.end.max(seen.start)..run.end.min(seen.end);
        weigh::<L, 1>(l, task, work, row..row + 1, alone);
    }
}

/// `sums[r] += sum_t p[r, t] v_t` over positions `span`, two vectors of `d` at a time;
/// rows behind the last repeat it.
#[inline(always)]
fn weigh<L: Lanes, const R: usize>(
    l: L,
    task: &Task<'_>,
    work: &mut Work<'_>,
    rows: Range<usize>,
    span: Range<usize>,
) {
    if span.is_empty() {
        return;
    }
    let padded = task.tile.params.head_dim.next_multiple_of(BLOCK);
    let stride = task.cache.value_stride();
    let values = &task.cache.value_rows(task.tile.head)[span.start * stride..];
    assert!(values.len() >= (span.len() - 1) * stride + padded);
    let mut p: [&[f32]; R] = [&[]; R];
    for (r, p) in p.iter_mut().enumerate() {
        let row = (rows.start + r).min(rows.end - 1);
        *p = &work.scores[row * work.stride + span.start - work.origin..][..span.len()];
    }
    for d in (0..padded).step_by(2 * L::WIDTH) {
        // A row of values may be one vector: then the second repeats the first.
        let far = if d + L::WIDTH < padded { d + L::WIDTH } else { d };
        let mut sums = [[l.splat(0.0); 2]; R];
        for r in 0..R {
            let at = (rows.start + r).min(rows.end - 1) * padded;
            sums[r] = [l.load(&work.sums[at + d..]), l.load(&work.sums[at + far..])];
        }
        for t in 0..span.len() {
            // SAFETY: `values` reach to the end of row `t`, and `p` rows have as many values.
            let v = unsafe { values.as_ptr().add(t * stride) };
            // SAFETY: as above.
            let (near, next) = unsafe { (l.load_ptr(v.add(d)), l.load_ptr(v.add(far))) };
            for r in 0..R {
                // SAFETY: as above.
                let p = l.splat(unsafe { *p[r].get_unchecked(t) });
                sums[r] = [l.fma(p, near, sums[r][0]), l.fma(p, next, sums[r][1])];
            }
        }
        for r in 0..R {
            let at = (rows.start + r).min(rows.end - 1) * padded;
            l.store(&mut work.sums[at + far..], sums[r][1]);
            l.store(&mut work.sums[at + d..], sums[r][0]);
        }
    }
}
