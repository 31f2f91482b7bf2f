//! The product of columns by rows: `out[r, c] = sum_p a(r, p) . b(p, c)`, in one f32 a result,
//! p in order. Knows no operand's origin.
//!
//! The trick: the lanes of a vector are columns c, and each a(r, p) is broadcast by its load, so
//! sums over a few dozen p cost no addition of lanes. Where bf16 pairs are multiplied in hardware,
//! p counts pairs. `DEPTH` of them at a time, so that a few vectors of columns over all of these stay
//! in the L1 cache for all rows.

use std::ops::Range;

use super::dot::{Dot, SumsOf};
use crate::lanes::Lanes;

/// Steps of p that go through all rows before the next: 4 vectors of them are 32 KiB.
const DEPTH: usize = 128;

/// What is broadcast: `a(r, p)` starts at `r * row + p * step`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, E> {
    pub(crate) elements: &'a [E],
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// What is multiplied with it: vectors of columns, `step` from one p to the next.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a, E> {
    pub(crate) elements: &'a [E],
    pub(crate) step: usize,
}

/// Where results go: rows of f32, `stride` apart.
pub(crate) struct Place<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
}

/// Whether results replace what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
}

/// Rows, columns and products of a result.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

/// The whole product; b holds whole vectors of columns.
#[inline(always)]
pub(crate) fn outer<D: Dot>(
    dot: D,
    size: Size,
    a: Left<'_, D::Element>,
    b: Right<'_, D::Element>,
    mode: Mode,
    mut to: Place<'_>,
) {
    let width = <D::Sums as Lanes>::WIDTH;
    if size.rows == 0 || size.columns == 0 || size.depth == 0 {
        return;
    }
    let whole = size.columns.next_multiple_of(width);
    assert!(a.elements.len() >= (size.rows - 1) * a.row + (size.depth - 1) * a.step + D::LANE);
    assert!(b.elements.len() >= (size.depth - 1) * b.step + whole * D::LANE);
    assert!(to.values.len() >= (size.rows - 1) * to.stride + size.columns);
    for start in (0..size.depth).step_by(DEPTH) {
        let part = Size { depth: DEPTH.min(size.depth - start), ..size };
        let a = Left { elements: &a.elements[start * a.step..], ..a };
        let b = Right { elements: &b.elements[start * b.step..], ..b };
        let mode = if start == 0 { mode } else { Mode::Add };
        let mut column = 0;
        while column < whole {
            let left = (whole - column) / width;
            // 32 registers hold 24 sums, 4 vectors of b and one of a; 16 hold 8, 2 and 1.
            let vectors = match (width, left) {
                (16, 4..) => strip::<D, 6, 4>(dot, part, (a, b), column, mode, &mut to),
                (16, 2..) => strip::<D, 6, 2>(dot, part, (a, b), column, mode, &mut to),
                (16, _) => strip::<D, 6, 1>(dot, part, (a, b), column, mode, &mut to),
                (_, 2..) => strip::<D, 4, 2>(dot, part, (a, b), column, mode, &mut to),
                _ => strip::<D, 4, 1>(dot, part, (a, b), column, mode, &mut to),
            };
            column += vectors * width;
        }
    }
}

/// N vectors of columns, from `column` on, of all rows; gives N.
#[inline(always)]
fn strip<D: Dot, const M: usize, const N: usize>(
    dot: D,
    size: Size,
    (a, b): (Left<'_, D::Element>, Right<'_, D::Element>),
    column: usize,
    mode: Mode,
    to: &mut Place<'_>,
) -> usize {
    let l = dot.sums();
    let width = <D::Sums as Lanes>::WIDTH;
    let b = Right { elements: &b.elements[column * D::LANE..], ..b };
    for first in (0..size.rows).step_by(M) {
        let rows = first..(first + M).min(size.rows);
        // SAFETY: `outer` has checked that all of `rows`, `depth` and the columns lie inside.
        let sums = unsafe { tile::<D, M, N>(dot, size.depth, (a, b), rows.clone()) };
        for (row, sums) in rows.zip(&sums) {
            let wide = (N * width).min(size.columns - column);
            let to = &mut to.values[row * to.stride + column..][..wide];
            for (to, sum) in to.chunks_mut(width).zip(sums) {
                match mode {
                    Mode::Set => l.store_start(to, *sum),
                    Mode::Add => {
                        let total = l.add(l.load_start(to), *sum);
                        l.store_start(to, total);
                    }
                }
            }
        }
    }
    N
}

/// The sums of M rows and N vectors; rows behind the last repeat it.
///
/// # Safety
/// All elements of `rows` and of N vectors over `depth` lie in `a` and `b`.
#[inline(always)]
unsafe fn tile<D: Dot, const M: usize, const N: usize>(
    dot: D,
    depth: usize,
    (a, b): (Left<'_, D::Element>, Right<'_, D::Element>),
    rows: Range<usize>,
) -> [[SumsOf<D>; N]; M] {
    let mut sums = [[dot.sums().splat(0.0); N]; M];
    let mut starts = [a.elements.as_ptr(); M];
    for (m, start) in starts.iter_mut().enumerate() {
        // SAFETY: the row is one of `rows`.
        *start = unsafe { start.add((rows.start + m).min(rows.end - 1) * a.row) };
    }
    let b_start = b.elements.as_ptr();
    for p in 0..depth {
        // SAFETY: the caller's promise, here and below.
        let mut vectors = [unsafe { dot.load(b_start.add(p * b.step)) }; N];
        for n in 1..N {
            // SAFETY: as above.
            vectors[n] = unsafe { dot.load(b_start.add(p * b.step + n * D::STEP)) };
        }
        for m in 0..M {
            // SAFETY: as above.
            let x = unsafe { dot.broadcast(starts[m].add(p * a.step)) };
            for n in 0..N {
                sums[m][n] = dot.multiply_add(vectors[n], x, sums[m][n]);
            }
        }
    }
    sums
}
