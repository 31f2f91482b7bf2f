//! The linear map of integer weights and activations rounded to int8:
//! `y[i, j] = sum_b (f32(e_b) * (s[j, b] * t[i, b]) + f32(u_b) * (m[j, b] * t[i, b]))`. Knows no
//! bias, no file and no layer.
//!
//! Block `b` of a row of x (32 or 64 columns, those of the weights) has the scale
//! `t = max|x| / 127` and the codes `q = round(x * (127 / max|x|))`, ties to even; `u = sum q`. Weights are
//! `s (c - z)` or `s c + m`; `e = sum q c - z u`. Codes are multiplied and added as integers,
//! exactly; blocks are added in order by fused multiply-adds. So the bits are the same on
//! every instruction set, for any number of threads, and for a row alone or among others.
//!
//! The rounding: `q t` is off by at most `t / 2`, 1/254 of the block's largest activation; a
//! 4-bit weight is off by 1/15 of its group's range at most. Dynamic 8-bit activations in
//! blocks are also ggml's (Q8_0, Q8_1).
//!
//! The trick: weights lie in tiles of 16 rows (`pack::tiles`), one row a lane, so nothing
//! is summed across lanes. Few rows of x: codes are unpacked in registers. Many: a tile is
//! unpacked once for all of them.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod amx;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
mod input;
mod scalar;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ops::Range;

use half::f16;

use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::pack::tiles::{QUAD_BYTES, TILE, Tile};
use crate::pack::{RowSource, SparseTiles, TileMatrix};
use crate::pool::{Cpu, Disjoint};
use crate::sparse;
use input::Codes;

/// One of the matrices that are multiplied with the same x.
#[derive(Debug)]
pub struct Product<'a> {
    /// `[n, k]`.
    pub weights: &'a TileMatrix,
    /// A stream that is added with its factor, and multiplied with x as it is.
    pub stream: Option<(&'a SparseTiles, f32)>,
    /// `[m, n]`, overwritten.
    pub y: &'a mut [f32],
}

/// Tiles that a kernel takes together.
const PAIR: usize = 2;

thread_local! {
    /// The calling thread's rounded x, its scales and its sums.
    static INPUT: Cell<[Aligned; 3]> = const { Cell::new([const { Aligned::new() }; 3]) };
    /// The same, side by side for a sparse stream.
    static TRANSPOSED: Cell<Aligned> = const { Cell::new(Aligned::new()) };
    /// A thread's unpacked tiles.
    static SCRATCH: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

/// Sets every `y` to `x [m, k]` times its weights; all weights have `k` columns.
///
/// # Panics
/// If `x` is not whole rows, a `y` is not `m` rows of its weights, or a stream has another shape.
pub fn linear(cpu: &Cpu, x: &[f32], products: &mut [Product<'_>]) {
    let Some(first) = products.first() else { return };
    let k = first.weights.cols();
    assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    let m = x.len() / k;
    for block in [32, 64] {
        let mut alike: Vec<_> = products.iter_mut().filter(|p| p.weights.block() == block).collect();
        for product in &alike {
            let n = product.weights.rows();
            assert_eq!((product.weights.cols(), product.y.len()), (k, m * n), "y must be {m}x{n}");
            let fits = |stream: &SparseTiles| (stream.rows(), stream.cols()) == (n, k);
            assert!(product.stream.is_none_or(|(stream, _)| fits(stream)), "a stream of another shape");
        }
        if m > 0 && !alike.is_empty() {
            alike_blocks(cpu, (x, k, block), &mut alike);
        }
    }
}

/// Products whose weights have blocks of the same size.
fn alike_blocks(cpu: &Cpu, (x, k, block): (&[f32], usize, usize), products: &mut [&mut Product<'_>]) {
    let (mut buffers, mut transposed) = (INPUT.take(), TRANSPOSED.take());
    let codes = input::quantize(cpu, x, (k, block), &mut buffers);
    let streamed = products.iter().any(|p| p.stream.is_some());
    let side = streamed.then(|| sparse::Input::new(cpu, x, k, &mut transposed));
    let outs: Vec<Out<'_>> = products.iter_mut().map(|p| Out::new(p, side)).collect();
    let pieces = pieces(&outs, cpu.pool.threads());
    cpu.pool.run(pieces.len(), &|task| {
        let (out, tiles) = &pieces[task];
        outs[*out].compute(cpu.isa, codes, tiles.clone());
    });
    INPUT.set(buffers.map(Aligned::kept));
    TRANSPOSED.set(transposed.kept());
}

/// Tiles of every product in pieces, so that all threads have work; any pieces give the same bits.
fn pieces(outs: &[Out<'_>], threads: usize) -> Vec<(usize, Range<usize>)> {
    let all: usize = outs.iter().map(|out| out.weights.tiles()).sum();
    let share = all.div_ceil(threads * PIECES).next_multiple_of(PAIR).min(MOST_TILES);
    let of = |(index, out): (usize, &Out<'_>)| {
        let tiles = out.weights.tiles();
        (0..tiles).step_by(share).map(move |first| (index, first..(first + share).min(tiles)))
    };
    outs.iter().enumerate().flat_map(of).collect()
}

/// Pieces a thread: with more, the last to end is waited for less, and each costs a start.
const PIECES: usize = 4;
/// Rows of x that are few.
const FEW: usize = 4;
/// Most tiles of a piece.
const MOST_TILES: usize = 64;

/// A product, and its result as all tasks write it.
struct Out<'a> {
    weights: &'a TileMatrix,
    stream: Option<(sparse::Input<'a>, (&'a SparseTiles, f32))>,
    y: Disjoint<'a, f32>,
}

impl<'a> Out<'a> {
    fn new<'p: 'a>(product: &'a mut Product<'p>, x: Option<sparse::Input<'a>>) -> Self {
        Self { weights: product.weights, stream: x.zip(product.stream), y: Disjoint::new(product.y) }
    }

    /// The results of `tiles` for all rows of x.
    fn compute(&self, isa: Isa, x: Codes<'_>, tiles: Range<usize>) {
        let n = self.weights.rows();
        // SAFETY: pieces own disjoint columns, and one task computes a piece.
        let place = |row: usize, columns: Range<usize>| unsafe {
            self.y.slice(row * n + columns.start, columns.len())
        };
        let Some((side, stream)) = self.stream else {
            return panel(isa, Panel { weights: self.weights, x, tiles }, &place);
        };
        // Few rows of x: everything comes from memory, that of a tile's stream while its base is
        // multiplied, and x must not leave the L1 cache. Many: tiles are unpacked, two at once.
        let group = if x.m > FEW { tiles.len() } else { 1 };
        let group_at = |first: usize| first..(first + group).min(tiles.end);
        sparse::prefetch_tiles(stream.0, group_at(tiles.start));
        for first in tiles.clone().step_by(group) {
            let here = group_at(first);
            sparse::prefetch_tiles(stream.0, group_at(here.end));
            panel(isa, Panel { weights: self.weights, x, tiles: here.clone() }, &place);
            let columns = here.start * TILE..(here.end * TILE).min(n);
            sparse::add_tiles(isa, side, stream, here, |row| place(row, columns.clone()));
        }
    }
}

/// Tiles by all rows of x.
struct Panel<'a> {
    weights: &'a TileMatrix,
    x: Codes<'a>,
    tiles: Range<usize>,
}

/// Where results go: a row of x and columns of y.
type Place<'p, 'y> = dyn Fn(usize, Range<usize>) -> &'y mut [f32] + 'p;

fn panel<'y>(isa: Isa, panel: Panel<'_>, place: &Place<'_, 'y>) {
    let mut scratch = SCRATCH.take();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        if let (Some(mut tiles), true) = (isa.tiles(), panel.x.m > FEW) {
            // SAFETY: the token of tiles is only given with all of AVX-512 and VNNI.
            unsafe { amx::panel(&mut tiles, &panel, place, &mut scratch) };
            return SCRATCH.set(scratch);
        }
        if isa.avx512().is_some() && isa.has_vnni() {
            // SAFETY: the tokens prove the features that the function enables.
            unsafe { avx512::panel(&panel, place, &mut scratch) };
            return SCRATCH.set(scratch);
        }
        if isa.avx512().is_some() || isa.avx2().is_some() {
            // SAFETY: as above; AVX-512 tokens are only given with AVX2.
            unsafe { avx2::panel(&panel, place, &mut scratch) };
            return SCRATCH.set(scratch);
        }
    }
    let _ = isa;
    scalar::panel(&panel, place, &mut scratch);
    SCRATCH.set(scratch);
}

impl Panel<'_> {
    /// The columns of y that a tile computes.
    fn columns(&self, tile: usize) -> Range<usize> {
        tile * TILE..((tile + 1) * TILE).min(self.weights.rows())
    }
    /// Blocks of a group.
    fn blocks_of(&self, group: usize) -> Range<usize> {
        let per_group = self.weights.per_group();
        group * per_group..((group + 1) * per_group).min(self.weights.blocks())
    }
    /// Unpacked bytes of a tile: `[block][quad][row][column]`.
    fn unpacked_bytes(&self) -> usize {
        self.weights.blocks() * self.weights.block() * TILE
    }
    /// Scales and offsets of a tile.
    fn grid(&self, tile: usize) -> Grid<'_> {
        let Tile { scales, zeros, minima, .. } = self.weights.tile(tile);
        let middle = self.weights.middle();
        Grid { scales, middle, zeros, minima, per_group: self.weights.per_group() }
    }
}

/// Scales and offsets of a tile, `[group][16]`.
#[derive(Clone, Copy)]
struct Grid<'a> {
    scales: &'a [f16],
    /// Zero code of all weights where there are no `zeros`.
    middle: i32,
    zeros: Option<&'a [u8]>,
    minima: Option<&'a [f16]>,
    /// Blocks of a group.
    per_group: usize,
}

/// Unpacks all codes of a tile.
fn unpack(weights: &TileMatrix, tile: usize, out: &mut [u8]) {
    let blocks = weights.tile(tile).codes.chunks_exact(weights.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(weights.block() * TILE)) {
        for (quad, out) in out.as_chunks_mut::<QUAD_BYTES>().0.iter_mut().enumerate() {
            weights.unpack_quad(block, quad, out);
        }
    }
}
