//! What a row has gathered over some positions, and how two such records become one.
//! Knows no keys and no queries.
//!
//! With scores `s_t` in powers of two: the largest score `top`, the sum of `2^(s_t - top)`
//! in 16 lanes, and `sum_t 2^(s_t - top) v_t`. Records are joined in the order of
//! positions; joining an empty one changes nothing but the sign of a zero.

use crate::lanes::Lanes;

/// Lanes of the sum of weights.
const LANES: usize = 16;
/// Where the largest score stands; the rest of its line is not used.
const TOP: usize = LANES;
/// Where the weighted values start.
const VALUES: usize = 2 * LANES;

/// The largest score of no scores: finite, so that differences to it are numbers.
pub(super) const FLOOR: f32 = -1e30;

/// Numbers of a record, `width` of them weighted values.
pub(super) fn size(width: usize) -> usize {
    VALUES + width
}

/// The record of no positions.
#[inline(always)]
pub(super) fn clear(record: &mut [f32]) {
    record.fill(0.0);
    record[TOP] = FLOOR;
}

/// The weighted values.
#[inline(always)]
pub(super) fn values(record: &mut [f32]) -> &mut [f32] {
    &mut record[VALUES..]
}

/// Takes in weights with the sums `total` under the largest score `top`; gives the factors of
/// the weighted values so far, and of those that come with these weights.
#[inline(always)]
pub(super) fn take<L: Lanes>(l: L, record: &mut [f32], top: f32, total: L::F) -> [L::F; 2] {
    let [ours, theirs] = raise(l, record, top);
    let sums = l.fma(total, theirs, l.mul(l.load(record), ours));
    l.store(record, sums);
    [ours, theirs]
}

/// Makes the larger of two largest scores that of the record; gives the factors of both sides.
#[inline(always)]
fn raise<L: Lanes>(l: L, record: &mut [f32], other: f32) -> [L::F; 2] {
    let top = if other > record[TOP] { other } else { record[TOP] };
    let factors = [l.exp2(l.splat(record[TOP] - top)), l.exp2(l.splat(other - top))];
    record[TOP] = top;
    factors
}

/// `into += part`, under the larger of the two largest scores.
#[inline(always)]
pub(super) fn join<L: Lanes>(l: L, into: &mut [f32], part: &[f32]) {
    let [ours, theirs] = raise(l, into, part[TOP]);
    let top = into[TOP];
    for (into, part) in into.chunks_exact_mut(L::WIDTH).zip(part.chunks_exact(L::WIDTH)) {
        let sum = l.fma(l.load(part), theirs, l.mul(l.load(into), ours));
        l.store(into, sum);
    }
    into[TOP] = top;
}

/// The weighted mean of the values.
#[inline(always)]
pub(super) fn finish<L: Lanes>(l: L, record: &[f32], out: &mut [f32]) {
    let mut total = l.splat(0.0);
    for lanes in record[..LANES].chunks_exact(L::WIDTH) {
        total = l.add(total, l.load(lanes));
    }
    let share = 1.0 / l.sum(total);
    // Adding 0 turns a zero of either sign into the one zero.
    out.iter_mut().zip(&record[VALUES..]).for_each(|(out, value)| *out = value * share + 0.0);
}
