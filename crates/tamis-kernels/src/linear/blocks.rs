//! The product with a matrix of kept 16 x 16 blocks. Knows no score and no other layout.
//!
//! `y[i, 16 s + r] = sum over the kept blocks b of strip s, in order, and over their columns c,
//! in order, of x[i, 16 column(b) + c] * w[b, r, c]`, in one f32 a result: pairs of columns at
//! a time where bf16 pairs are multiplied in hardware. That says nothing of the tile, so a row
//! of x has the same bits alone and among thousands.
//!
//! The trick: the lanes of a vector are the 16 outputs of a strip. A weight vector is loaded
//! once for all rows of a tile of x, each number of x is broadcast by its load, and no lanes are
//! ever added. Tiles of x stand as `[k / 16][rows][16]`, so all of a block's numbers of x have
//! fixed distances from one address.

use std::ops::Range;

use super::dot::{Dot, DotKernel, Operand, SumsOf, run_dot};
use super::{OPERAND, Output, Precision, SCRATCH};
use crate::aligned::{Aligned, Line, numbers, numbers_mut};
use crate::lanes::Lanes;
use crate::pack::{BLOCK_SIDE, BLOCK_WEIGHTS, BlockMatrix};
use crate::pool::{Cpu, Disjoint};

/// Up to so many rows of x, a block is decoded when it is used, and not written to memory.
const FEW_ROWS: usize = 8;
/// Columns, in blocks, between which sums are put aside: a tile of 24 rows of bf16 takes 96 KiB
/// of the L2 cache.
const SPAN: usize = 128;
/// Most strips in a task: over a span they take at most 512 KiB.
const PANEL: usize = 8;

/// Rows of x in a tile: their sums, a vector of weights and one of x fill the registers.
const fn tall(width: usize) -> usize {
    if width == BLOCK_SIDE { 24 } else { 6 }
}

/// Rows of the next tile where `left` are left. No sum knows of it.
fn tile_rows(left: usize, tall: usize) -> usize {
    if left >= tall { tall } else { 1 << left.ilog2() }
}

/// `y[m, n] = x[m, k] * W^T`; the caller has checked the lengths.
pub(super) fn product(
    cpu: &Cpu,
    x: &[f32],
    w: &BlockMatrix,
    shape: Shape,
    precision: Precision,
    y: &mut [f32],
) {
    let mut buffer = OPERAND.take();
    let x = lay(cpu, x, shape, precision, &mut buffer);
    let strips = w.strips();
    // Strips differ in what they keep, so there are more tasks than threads.
    let panel = strips.div_ceil(cpu.pool.threads() * 4).clamp(1, PANEL);
    let out = Output { values: Disjoint::new(y), stride: shape.n };
    cpu.pool.run(strips.div_ceil(panel), &|task| {
        let strips = task * panel..((task + 1) * panel).min(strips);
        run_dot(cpu.isa, precision, Panel { x, w, shape, strips, out: &out });
    });
    OPERAND.set(buffer.kept());
}

/// Sizes of `y [m, n] = x [m, k] * W^T`.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// x in tiles, converted once for all panels; whole blocks, with zeros behind the last column.
fn lay<'a>(cpu: &Cpu, x: &[f32], shape: Shape, precision: Precision, buffer: &'a mut Aligned) -> Operand<'a> {
    let (tall, element) = run_dot(cpu.isa, precision, TileShape);
    let padded = shape.k.next_multiple_of(BLOCK_SIDE);
    let lines = buffer.lines((shape.m * padded * element).div_ceil(size_of::<Line>()));
    // A tile of `tall` rows is whole lines, whatever the element.
    let per_tile = tall * padded * element / size_of::<Line>();
    cpu.pool.run_chunks(lines, per_tile, &|tile, lines| {
        let x = &x[tile * tall * shape.k..((tile + 1) * tall).min(shape.m) * shape.k];
        run_dot(cpu.isa, precision, LayTiles { x, k: shape.k, lines });
    });
    match element {
        2 => Operand::new(numbers::<u16>(lines), padded),
        _ => Operand::new(numbers::<f32>(lines), padded),
    }
}

/// Rows of a tile, and bytes of an element.
struct TileShape;

impl DotKernel for TileShape {
    type Output = (usize, usize);
    fn run<D: Dot>(self, _: D) -> (usize, usize) {
        (tall(<D::Sums as Lanes>::WIDTH), size_of::<D::Element>())
    }
}

/// Rows `[up to tall, k]` into tiles.
struct LayTiles<'a> {
    x: &'a [f32],
    k: usize,
    lines: &'a mut [Line],
}

impl DotKernel for LayTiles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let padded = self.k.next_multiple_of(BLOCK_SIDE);
        let (mut row, panel) = SCRATCH.take();
        let converted = numbers_mut::<D::Element>(row.lines((padded * size_of::<D::Element>()).div_ceil(64)));
        let converted = &mut converted[..padded];
        let mut to = numbers_mut::<D::Element>(self.lines);
        let mut x = self.x;
        while !x.is_empty() {
            let rows = tile_rows(x.len() / self.k, tall(<D::Sums as Lanes>::WIDTH));
            let (now, later) = to.split_at_mut(rows * padded);
            for row in 0..rows {
                dot.convert(&x[row * self.k..][..self.k], &mut converted[..self.k]);
                converted[self.k..].fill(D::ZERO);
                let pieces = now.chunks_exact_mut(rows * BLOCK_SIDE);
                for (piece, converted) in pieces.zip(converted.chunks_exact(BLOCK_SIDE)) {
                    piece[row * BLOCK_SIDE..][..BLOCK_SIDE].copy_from_slice(converted);
                }
            }
            (x, to) = (&x[rows * self.k..], later);
        }
        SCRATCH.set((row, panel));
    }
}

/// Some strips of the product.
struct Panel<'a> {
    x: Operand<'a>,
    w: &'a BlockMatrix,
    shape: Shape,
    strips: Range<usize>,
    out: &'a Output<'a>,
}

impl DotKernel for Panel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let stored = D::stored_blocks(self.w);
        let across = self.shape.k.div_ceil(BLOCK_SIDE);
        if self.shape.m <= FEW_ROWS {
            // A strip at a time: where there are several tiles, it is still in the L2 cache.
            for strip in self.strips.clone() {
                let part = Part { panel: &self, strips: strip..strip + 1, columns: 0..across };
                part.multiply(dot, stored.map_or(Source::Packed, Source::Stored));
            }
            return;
        }
        let (row, mut decoded) = SCRATCH.take();
        for left in (0..across).step_by(SPAN) {
            let part = Part { panel: &self, strips: self.strips.clone(), columns: left..left + SPAN };
            match stored {
                Some(stored) => part.multiply(dot, Source::Stored(stored)),
                None => {
                    let decoded = part.decode(dot, &mut decoded);
                    part.multiply(dot, Source::Decoded(decoded));
                }
            }
        }
        SCRATCH.set((row, decoded));
    }
}

/// Some strips over some columns, both counted in blocks.
struct Part<'a> {
    panel: &'a Panel<'a>,
    strips: Range<usize>,
    columns: Range<usize>,
}

/// Where a part's blocks are taken from.
#[derive(Clone, Copy)]
enum Source<'a, E> {
    /// Elements of all blocks of the matrix.
    Stored(&'a [E]),
    /// Elements of the part's blocks.
    Decoded(&'a [E]),
    /// The matrix itself: a block is decoded when it is used.
    Packed,
}

impl Part<'_> {
    /// The blocks of a strip that lie in the part.
    fn blocks(&self, strip: usize) -> Range<usize> {
        let all = self.panel.w.blocks_of(strip);
        let columns = &self.panel.w.columns()[all.clone()];
        let before = |end: usize| all.start + columns.partition_point(|&c| usize::from(c) < end);
        before(self.columns.start)..before(self.columns.end)
    }

    /// All blocks of the part as elements.
    #[inline(always)]
    fn decode<'a, D: Dot>(&self, dot: D, buffer: &'a mut Aligned) -> &'a [D::Element] {
        let count: usize = self.strips.clone().map(|strip| self.blocks(strip).len()).sum();
        let to = numbers_mut(buffer.lines(count * BLOCK_WEIGHTS * size_of::<D::Element>() / 64));
        let mut pieces = to.chunks_exact_mut(BLOCK_WEIGHTS);
        for strip in self.strips.clone() {
            // The pieces second: `zip` takes no piece where the blocks have ended.
            for (block, to) in self.blocks(strip).zip(&mut pieces) {
                dot.decode_block(self.panel.w, block, to);
            }
        }
        &to[..count * BLOCK_WEIGHTS]
    }

    /// Adds the part to the sums of all rows of x.
    #[inline(always)]
    fn multiply<D: Dot>(&self, dot: D, source: Source<'_, D::Element>) {
        let Panel { x, w, shape, .. } = self.panel;
        let elements = x.elements::<D::Element>();
        let mut row = 0;
        while row < shape.m {
            let rows = tile_rows(shape.m - row, tall(<D::Sums as Lanes>::WIDTH));
            let x = &elements[row * x.stride..][..rows * x.stride];
            let mut before = 0;
            for strip in self.strips.clone() {
                let blocks = self.blocks(strip);
                let at = Place { row, rows, strip };
                let columns = &w.columns()[blocks.clone()];
                let laid = match source {
                    Source::Stored(values) => Some(&values[blocks.start * BLOCK_WEIGHTS..]),
                    Source::Decoded(values) => Some(&values[before * BLOCK_WEIGHTS..]),
                    Source::Packed => None,
                };
                match laid {
                    Some(values) => self.tile(dot, (Laid(values), columns, x), at),
                    None => self.tile(dot, (Packed(w, blocks.start), columns, x), at),
                }
                before += blocks.len();
            }
            row += rows;
        }
    }

    #[inline(always)]
    fn tile<D: Dot, B: Blocks<D>>(&self, dot: D, of: Operands<'_, D, B>, at: Place) {
        if <D::Sums as Lanes>::WIDTH == BLOCK_SIDE {
            match at.rows {
                1 => self.rows::<D, B, 1, 1>(dot, of, at),
                2 => self.rows::<D, B, 2, 1>(dot, of, at),
                4 => self.rows::<D, B, 4, 1>(dot, of, at),
                8 => self.rows::<D, B, 8, 1>(dot, of, at),
                16 => self.rows::<D, B, 16, 1>(dot, of, at),
                _ => self.rows::<D, B, 24, 1>(dot, of, at),
            }
        } else {
            match at.rows {
                1 => self.rows::<D, B, 1, 2>(dot, of, at),
                2 => self.rows::<D, B, 2, 2>(dot, of, at),
                4 => self.rows::<D, B, 4, 2>(dot, of, at),
                _ => self.rows::<D, B, 6, 2>(dot, of, at),
            }
        }
    }

    /// R rows of x by a strip of V vectors, from and to the sums in y.
    #[inline(always)]
    fn rows<D: Dot, B: Blocks<D>, const R: usize, const V: usize>(
        &self,
        dot: D,
        of: Operands<'_, D, B>,
        Place { row, strip, .. }: Place,
    ) {
        let l = dot.sums();
        let Shape { n, .. } = self.panel.shape;
        let wide = BLOCK_SIDE.min(n - strip * BLOCK_SIDE);
        let place = |r: usize| {
            let start = (row + r) * self.panel.out.stride + strip * BLOCK_SIDE;
            // SAFETY: panels own disjoint strips, and one task computes a panel.
            unsafe { self.panel.out.values.slice(start, wide) }
        };
        let mut lanes = [[0.0; BLOCK_SIDE]; R];
        if self.columns.start > 0 {
            for (r, lanes) in lanes.iter_mut().enumerate() {
                lanes[..wide].copy_from_slice(place(r));
            }
        }
        let mut sums = [[l.splat(0.0); V]; R];
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = l.load(&lanes[r][v * D::Sums::WIDTH..]);
            }
        }
        let sums = add_strip(dot, of, sums);
        for r in 0..R {
            for v in 0..V {
                l.store(&mut lanes[r][v * D::Sums::WIDTH..], sums[r][v]);
            }
        }
        for (r, lanes) in lanes.iter().enumerate() {
            match <&mut [f32; BLOCK_SIDE]>::try_from(place(r)) {
                // The common case has a length that the compiler knows.
                Ok(to) => *to = *lanes,
                Err(_) => place(r).copy_from_slice(&lanes[..wide]),
            }
        }
    }
}

/// A tile of results: `rows` rows of x from `row` on by a strip.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    strip: usize,
}

/// Blocks of one strip, their columns, and a tile of x `[k / 16, R, 16]`.
type Operands<'a, D, B> = (B, &'a [u16], &'a [<D as Dot>::Element]);

/// Where the blocks of one strip are taken from.
trait Blocks<D: Dot>: Copy {
    /// A block as elements `[16 / pair, 16 rows, pair]`; `spare` may hold it.
    fn block<'s>(
        &'s self,
        dot: D,
        index: usize,
        spare: &'s mut [D::Element; BLOCK_WEIGHTS],
    ) -> &'s [D::Element];
}

/// Elements, block by block.
#[derive(Clone, Copy)]
struct Laid<'a, E>(&'a [E]);

impl<D: Dot> Blocks<D> for Laid<'_, D::Element> {
    #[inline(always)]
    fn block<'s>(&'s self, _: D, index: usize, _: &'s mut [D::Element; BLOCK_WEIGHTS]) -> &'s [D::Element] {
        &self.0[index * BLOCK_WEIGHTS..][..BLOCK_WEIGHTS]
    }
}

/// The matrix, from a block on.
#[derive(Clone, Copy)]
struct Packed<'a>(&'a BlockMatrix, usize);

impl<D: Dot> Blocks<D> for Packed<'_> {
    #[inline(always)]
    fn block<'s>(
        &'s self,
        dot: D,
        index: usize,
        spare: &'s mut [D::Element; BLOCK_WEIGHTS],
    ) -> &'s [D::Element] {
        dot.decode_block(self.0, self.1 + index, spare);
        spare
    }
}

/// Adds the products of all blocks to the sums.
#[inline(always)]
fn add_strip<D: Dot, B: Blocks<D>, const R: usize, const V: usize>(
    dot: D,
    (blocks, columns, x): Operands<'_, D, B>,
    mut sums: [[SumsOf<D>; V]; R],
) -> [[SumsOf<D>; V]; R] {
    let width = <D::Sums as Lanes>::WIDTH;
    let pair = D::STEP / width;
    assert!(width * V == BLOCK_SIDE);
    let mut spare = [D::ZERO; BLOCK_WEIGHTS];
    for (index, &column) in columns.iter().enumerate() {
        let values = blocks.block(dot, index, &mut spare);
        let x = &x[usize::from(column) * R * BLOCK_SIDE..][..R * BLOCK_SIDE];
        assert!(values.len() == BLOCK_WEIGHTS);
        for k in (0..BLOCK_SIDE).step_by(pair) {
            // SAFETY: a block has `BLOCK_WEIGHTS` elements, a tile's part `R * BLOCK_SIDE`.
            unsafe {
                let mut w = [dot.load(values.as_ptr().add(k * BLOCK_SIDE)); V];
                for v in 1..V {
                    w[v] = dot.load(values.as_ptr().add(k * BLOCK_SIDE + v * D::STEP));
                }
                for r in 0..R {
                    let x = dot.broadcast(x.as_ptr().add(r * BLOCK_SIDE + k));
                    for v in 0..V {
                        sums[r][v] = dot.multiply_add(w[v], x, sums[r][v]);
                    }
                }
            }
        }
    }
    sums
}
