//! Products of whole blocks in tiles (`tile_unit`): 16 rows of x by 16 outputs an instruction.
//!
//! A block of x (32 or 64 codes of 16 rows) is one tile, a block of an unpacked weight tile
//! (8 or 16 quads) another, as both lie in memory. Two of each give four tiles of sums, 32 rows
//! of x by 32 outputs. Scales change from block to block, so every block's sums go through
//! 4 KiB of scratch, which stay in the L1 cache, into f32 sums; these are 4 KiB too.
//!
//! The tricks. Products of the next block are asked for before the sums of this one are
//! added: tiles and vectors are different units. All tiles have `min(m, 16)` rows, so one
//! configuration serves a whole piece: the last strip of rows begins early, and rows that
//! the strip before it has are multiplied again but not added.
//!
//! Verified: the tests run this file with the emulated unit and find the bits of the reference,
//! on every machine with AVX-512 VNNI. Not run there: the six methods of one instruction in
//! `tile_unit::amx`. Their operands were read in a disassembly, and a process tries them on
//! known products before it uses them. No speed of this file has been measured.

use std::arch::x86_64::*;

use super::avx512::{At, Units, store, unpack_tile};
use super::input::Codes;
use super::{Grid, PAIR, Panel, Place};
use crate::aligned::Aligned;
use crate::pack::tiles::{Offsets, QUAD, QUAD_BYTES, TILE};
use crate::tile_unit::{Configured, ROWS, TileUnit};

/// Strips of 16 rows of x that are multiplied together.
const STRIPS: usize = 2;

// Tiles, as in `Config::for_products`: sums of strip and output tile, codes of x, weights.
const C00: usize = 0;
const C01: usize = 1;
const C10: usize = 2;
const C11: usize = 3;
const A0: usize = 4;
const A1: usize = 5;
const B0: usize = 6;
const B1: usize = 7;

/// Numbers of 16 rows by 16 outputs, as a tile is stored.
type Square<T> = [[T; TILE]; ROWS];

/// The numbers of 32 rows by 32 outputs, `[strip][tile of outputs]`.
type Squares<T> = [[Square<T>; PAIR]; STRIPS];

const NO_SUMS: Squares<f32> = [[[[0.0; TILE]; ROWS]; PAIR]; STRIPS];

/// What a piece writes besides its result.
#[repr(C, align(64))]
struct Near {
    /// Integer sums of a block and of the next.
    dots: [Squares<i32>; 2],
    sums: Squares<f32>,
}

/// The results of all rows of x for the tiles of `panel`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn panel<'y, U: TileUnit>(
    unit: &mut U,
    panel: &Panel<'_>,
    place: &Place<'_, 'y>,
    scratch: &mut Aligned,
) {
    if panel.x.m == 0 {
        return;
    }
    let unit = Configured::for_products(unit, panel.x.m.min(ROWS), panel.x.block / QUAD);
    match panel.weights.offsets() {
        Offsets::Minima => tiles::<U, true>(unit.unit, panel, place, scratch),
        _ => tiles::<U, false>(unit.unit, panel, place, scratch),
    }
}

/// Unpacks two tiles at a time for all rows of x.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tiles<'y, U: TileUnit, const MINIMA: bool>(
    unit: &mut U,
    panel: &Panel<'_>,
    place: &Place<'_, 'y>,
    scratch: &mut Aligned,
) {
    let per_tile = panel.unpacked_bytes();
    let codes = scratch.numbers::<u8>(PAIR * per_tile);
    let mut near = Near { dots: [[[[[0; TILE]; ROWS]; PAIR]; STRIPS]; 2], sums: NO_SUMS };
    for first in panel.tiles.clone().step_by(PAIR) {
        let pair = first..(first + PAIR).min(panel.tiles.end);
        for (tile, to) in pair.clone().zip(codes.chunks_exact_mut(per_tile)) {
            unpack_tile(panel.weights, tile, to);
        }
        for row in (0..panel.x.m).step_by(STRIPS * ROWS) {
            let mut piece = Piece { panel, codes, row, tile: first, near: &mut near };
            // SAFETY: `panel` has configured the unit for strips of this x.
            unsafe {
                match (panel.x.m - row > ROWS, pair.len() == PAIR) {
                    (true, true) => piece.compute::<U, MINIMA, 2, 2>(unit, place),
                    (true, false) => piece.compute::<U, MINIMA, 2, 1>(unit, place),
                    (false, true) => piece.compute::<U, MINIMA, 1, 2>(unit, place),
                    (false, false) => piece.compute::<U, MINIMA, 1, 1>(unit, place),
                }
            }
        }
    }
}

/// Up to two strips of x by up to two unpacked tiles.
struct Piece<'p> {
    panel: &'p Panel<'p>,
    /// `[tile][block][quad][row][column]`.
    codes: &'p [u8],
    /// First row of x.
    row: usize,
    /// First tile.
    tile: usize,
    near: &'p mut Near,
}

/// Rows of x in a tile.
#[derive(Clone, Copy)]
struct Strip {
    first: usize,
    rows: usize,
    /// Rows that belong to the strip before.
    skip: usize,
}

impl Strip {
    /// The one from `row` on, or the last 16 rows that there are.
    fn new(x: &Codes<'_>, row: usize) -> Self {
        let rows = x.m.min(ROWS);
        let first = row.min(x.m - rows);
        Self { first, rows, skip: row - first }
    }
}

impl Piece<'_> {
    /// `MA` strips by `NB` tiles: products of block `b + 1`, then the sums of block `b`.
    ///
    /// # Safety
    /// The unit is configured for products of `min(m, 16)` rows and a block's quads.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn compute<'y, U: TileUnit, const MINIMA: bool, const MA: usize, const NB: usize>(
        &mut self,
        unit: &mut U,
        place: &Place<'_, 'y>,
    ) {
        let (panel, x) = (self.panel, self.panel.x);
        let strips: [Strip; MA] = std::array::from_fn(|a| Strip::new(&x, self.row + a * ROWS));
        let grids: [Grid<'_>; NB] = std::array::from_fn(|b| panel.grid(self.tile + b));
        self.near.sums = NO_SUMS;
        // SAFETY: the caller's promise; so below.
        unsafe { self.multiply::<U, MA, NB>(unit, &strips, 0) };
        for group in 0..panel.weights.groups() {
            let mut at = [At::of(&grids[0], group); NB];
            for b in 1..NB {
                at[b] = At::of(&grids[b], group);
            }
            for block in panel.blocks_of(group) {
                if block + 1 < x.blocks {
                    // SAFETY: as above.
                    unsafe { self.multiply::<U, MA, NB>(unit, &strips, block + 1) };
                }
                for (a, strip) in strips.iter().enumerate() {
                    let Near { dots, sums } = &mut *self.near;
                    add::<MINIMA, NB>(&mut sums[a], &dots[block % 2][a], &at, *strip, (&x, block));
                }
            }
        }
        for (strip, sums) in strips.iter().zip(&self.near.sums) {
            for r in strip.skip..strip.rows {
                for (b, sums) in sums[..NB].iter().enumerate() {
                    store(place(strip.first + r, panel.columns(self.tile + b)), vector(&sums[r]));
                }
            }
        }
    }

    /// Stores the products of one block to its half of `dots`.
    ///
    /// # Safety
    /// As `compute`.
    #[inline(always)]
    unsafe fn multiply<U: TileUnit, const MA: usize, const NB: usize>(
        &mut self,
        unit: &mut U,
        strips: &[Strip; MA],
        block: usize,
    ) {
        let x = self.panel.x;
        let width = x.blocks * x.block;
        let a: [*const u8; MA] = std::array::from_fn(|a| {
            let Strip { first, rows, .. } = strips[a];
            let codes = &x.codes[first * width + block * x.block..];
            codes[..(rows - 1) * width + x.block].as_ptr().cast()
        });
        let b: [*const u8; NB] = std::array::from_fn(|b| {
            let codes = &self.codes[b * self.panel.unpacked_bytes() + block * x.block * TILE..];
            codes[..x.block * TILE].as_ptr()
        });
        let dots = &mut self.near.dots[block % 2];
        // SAFETY: the unit is configured, as the caller promises. `a` are strips of that many
        // rows, `width` apart; `b` are a block's quads; a square has 16 rows of 64 bytes.
        unsafe {
            unit.load::<A0>(a[0], width);
            unit.load::<B0>(b[0], QUAD_BYTES);
            product::<U, C00, A0, B0>(unit);
            if NB == 2 {
                unit.load::<B1>(b[NB - 1], QUAD_BYTES);
                product::<U, C01, A0, B1>(unit);
            }
            if MA == 2 {
                unit.load::<A1>(a[MA - 1], width);
                product::<U, C10, A1, B0>(unit);
            }
            if MA == 2 && NB == 2 {
                product::<U, C11, A1, B1>(unit);
            }
            keep::<U, C00>(unit, &mut dots[0][0]);
            if NB == 2 {
                keep::<U, C01>(unit, &mut dots[0][1]);
            }
            if MA == 2 {
                keep::<U, C10>(unit, &mut dots[1][0]);
            }
            if MA == 2 && NB == 2 {
                keep::<U, C11>(unit, &mut dots[1][1]);
            }
        }
    }
}

/// `C = A B`.
///
/// # Safety
/// The unit is configured for these tiles.
#[inline(always)]
unsafe fn product<U: TileUnit, const C: usize, const A: usize, const B: usize>(unit: &mut U) {
    // SAFETY: the caller's promise.
    unsafe {
        unit.zero::<C>();
        unit.multiply::<C, A, B>();
    }
}

/// Stores sums.
///
/// # Safety
/// Tile `C` is configured; its rows are 64 bytes at most, as all rows are.
#[inline(always)]
unsafe fn keep<U: TileUnit, const C: usize>(unit: &mut U, to: &mut Square<i32>) {
    // SAFETY: the caller's promise; a square has 16 rows of 64 bytes, side by side.
    unsafe { unit.store::<C>(to.as_mut_ptr().cast(), size_of::<[i32; TILE]>()) }
}

/// A strip's sums with one block more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<const MINIMA: bool, const NB: usize>(
    sums: &mut [Square<f32>; PAIR],
    dots: &[Square<i32>; PAIR],
    at: &[At; NB],
    strip: Strip,
    (x, block): (&Codes<'_>, usize),
) {
    let units = Units::of(x, (strip.first, strip.rows), block);
    for r in strip.skip..strip.rows {
        for b in 0..NB {
            let (sum, dot) = (&mut sums[b][r], &dots[b][r]);
            // SAFETY: 16 numbers are read and written; the units are those of all rows.
            unsafe {
                let dot = _mm512_loadu_si512(dot.as_ptr().cast());
                let sum_and_block = at[b].add::<MINIMA>(vector(sum), dot, units, r);
                _mm512_storeu_ps(sum.as_mut_ptr(), sum_and_block);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn vector(sums: &[f32; TILE]) -> __m512 {
    // SAFETY: 16 numbers are read.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}
