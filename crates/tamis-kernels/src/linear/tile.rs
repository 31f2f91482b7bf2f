//! The matrix product of rows by rows: `out[i, j] = dot(x_i, w_j)`.
//!
//! One dot product is defined as: cut `k` into blocks of `BLOCK_BYTES`; within a
//! block lane `l` of a vector of sums adds the products of elements `l, l + STEP, ...`
//! in order; the lanes are added by the fixed tree of `Lanes`; block results are
//! added in order. That says nothing of the tile, so a row alone and a row among
//! thousands give the same bits.
//!
//! The trick: a tile of M rows of x and N rows of W keeps M * N vectors of sums in
//! registers and loads only M + N vectors for M * N multiply-adds. Both operands are
//! contiguous along k, so nothing is packed.

use super::dot::{Dot, SumsOf};
use crate::lanes::Lanes;

/// Bytes of a row that one block covers: 4 + 6 rows of a block fit the L1 cache.
pub(crate) const BLOCK_BYTES: usize = 3072;

/// Rows of x that go through all of a panel of W before the next: with a panel they
/// fit the L2 cache, a block at a time.
const CHUNK: usize = 96;

/// Rows of elements in memory.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, E> {
    elements: &'a [E],
    stride: usize,
    count: usize,
    len: usize,
}

impl<'a, E> Rows<'a, E> {
    /// `count` rows of `len` elements, `stride` apart.
    pub(crate) fn new(elements: &'a [E], stride: usize, count: usize, len: usize) -> Self {
        assert!(count == 0 || elements.len() >= (count - 1) * stride + len);
        Self { elements, stride, count, len }
    }
    /// `N` rows from `first` on; behind the last row it repeats, and the results are dropped.
    #[inline(always)]
    fn pointers<const N: usize>(&self, first: usize) -> [*const E; N] {
        let start = self.elements.as_ptr();
        let mut rows = [start; N];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: the index is below `count`, so the row lies in the slice.
            *row = unsafe { start.add((first + i).min(self.count - 1) * self.stride) };
        }
        rows
    }
}

/// Where results go.
pub(crate) trait Sink {
    /// The place of `len` results of a row.
    type Total: Copy;
    #[allow(clippy::mut_from_ref, reason = "tasks own disjoint places")]
    fn place(&self, row: usize, column: usize, len: usize) -> &mut [Self::Total];
    /// `total` with the value of one block; `first` marks the first block.
    fn combine(total: Self::Total, value: f32, first: bool) -> Self::Total;
    /// Whether anything of the rows from `row` on is wanted in columns below `column_end`.
    #[inline(always)]
    fn wants(&self, _row: usize, _column_end: usize) -> bool {
        true
    }
}

/// All dot products of rows of `x` by rows of `w`.
#[inline(always)]
pub(crate) fn product<D: Dot>(dot: D, x: Rows<'_, D::Element>, w: Rows<'_, D::Element>, sink: &impl Sink) {
    assert_eq!(x.len, w.len);
    let len = x.len;
    if x.count == 0 || w.count == 0 {
        return;
    }
    let block = BLOCK_BYTES / size_of::<D::Element>();
    let mut row = 0;
    while row < x.count {
        let part = row..(row + CHUNK).min(x.count);
        let mut start = 0;
        while start < len {
            let span = start..(start + block).min(len);
            if <D::Sums as Lanes>::TILE.1 == 6 {
                columns::<D, 6>(dot, (x, part.clone()), w, span, sink);
            } else {
                columns::<D, 4>(dot, (x, part.clone()), w, span, sink);
            }
            start += block;
        }
        row += CHUNK;
    }
}

type Span = std::ops::Range<usize>;

/// One chunk of x by all of w over one block: N columns at a time.
#[inline(always)]
fn columns<D: Dot, const N: usize>(
    dot: D,
    x: (Rows<'_, D::Element>, Span),
    w: Rows<'_, D::Element>,
    span: Span,
    sink: &impl Sink,
) {
    let (x, part) = x;
    let tall = <D::Sums as Lanes>::TILE.0;
    let mut column = 0;
    while column < w.count {
        let mut row = part.start;
        while row < part.end {
            let at = (row, column);
            if !sink.wants(row, column + N) {
                break;
            }
            match (part.end - row).min(tall) {
                1 => tile::<D, 1, N>(dot, (x, w), at, span.clone(), sink),
                2 => tile::<D, 2, N>(dot, (x, w), at, span.clone(), sink),
                3 => tile::<D, 3, N>(dot, (x, w), at, span.clone(), sink),
                _ => tile::<D, 4, N>(dot, (x, w), at, span.clone(), sink),
            }
            row += tall;
        }
        column += N;
    }
}

/// One register tile over one block.
#[inline(always)]
fn tile<D: Dot, const M: usize, const N: usize>(
    dot: D,
    (x, w): (Rows<'_, D::Element>, Rows<'_, D::Element>),
    (row, column): (usize, usize),
    span: Span,
    sink: &impl Sink,
) {
    let (xs, ws) = (x.pointers::<M>(row), w.pointers::<N>(column));
    let mut sums = [[dot.sums().splat(0.0); N]; M];
    let mut at = span.start;
    while at + D::STEP <= span.end {
        // SAFETY: `at + STEP` is within the rows' length.
        let load = |from: *const D::Element| unsafe { dot.load(from.add(at)) };
        step(dot, &mut sums, &xs, &ws, load);
        at += D::STEP;
    }
    if at < span.end {
        // SAFETY: `span.end - at` elements are left in each row.
        let load = |from: *const D::Element| unsafe { dot.load_first(from.add(at), span.end - at) };
        step(dot, &mut sums, &xs, &ws, load);
    }
    let values = lane_sums(dot, &sums);
    let first = span.start == 0;
    for (m, values) in values.iter().enumerate() {
        let wide = N.min(w.count - column);
        let out = sink.place(row + m, column, wide);
        match out.first_chunk_mut::<N>() {
            // The common case has a length that the compiler knows.
            Some(out) => combine(sink, out, values, first),
            None => combine(sink, out, &values[..wide], first),
        }
    }
}

#[inline(always)]
fn combine<S: Sink>(_: &S, out: &mut [S::Total], values: &[f32], first: bool) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = S::combine(*out, *value, first);
    }
}

/// Adds one vector of every row to all sums of the tile.
#[inline(always)]
fn step<D: Dot, const M: usize, const N: usize>(
    dot: D,
    sums: &mut [[SumsOf<D>; N]; M],
    xs: &[*const D::Element; M],
    ws: &[*const D::Element; N],
    load: impl Fn(*const D::Element) -> D::Vector,
) {
    let mut x = [load(xs[0]); M];
    for m in 1..M {
        x[m] = load(xs[m]);
    }
    for n in 0..N {
        let w = load(ws[n]);
        for m in 0..M {
            sums[m][n] = dot.multiply_add(x[m], w, sums[m][n]);
        }
    }
}

/// Adds the lanes of all vectors, four at a time.
#[inline(always)]
fn lane_sums<D: Dot, const M: usize, const N: usize>(dot: D, sums: &[[SumsOf<D>; N]; M]) -> [[f32; N]; M] {
    let l = dot.sums();
    let mut out = [[0.0; N]; M];
    let (flat, values) = (sums.as_flattened(), out.as_flattened_mut());
    for (values, sums) in values.chunks_mut(4).zip(flat.chunks(4)) {
        let mut four = [l.splat(0.0); 4];
        for i in 0..4 {
            if i < sums.len() {
                four[i] = sums[i];
            }
        }
        let four = l.sum4(four);
        for i in 0..4 {
            if i < sums.len() {
                values[i] = four[i];
            }
        }
    }
    out
}
