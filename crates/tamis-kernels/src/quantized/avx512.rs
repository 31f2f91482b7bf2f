//! Sixteen rows a vector, four products a lane and instruction (`vpdpbusd`).
//!
//! Up to `FEW` rows of x go through the packed codes together: a code is unpacked in a
//! register and multiplied at once, so one token reads the weights once and writes nothing.
//! More rows: two tiles are unpacked into scratch, which stays in the L2 cache, and tiles of
//! 6 rows of x by 32 outputs keep their 12 integer and 12 float sums in registers.

use std::arch::x86_64::*;

use super::input::Codes;
use super::{FEW, Grid, PAIR, Panel, Place};
use crate::aligned::{AHEAD, Aligned, LINE, prefetch};
use crate::pack::TileMatrix;
use crate::pack::tiles::{Offsets, QUAD, QUAD_BYTES, TILE, quad_of};

/// Rows of x in a register tile.
const TALL: usize = 6;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn panel<'y>(panel: &Panel<'_>, place: &Place<'_, 'y>, scratch: &mut Aligned) {
    let minima = panel.weights.offsets() == Offsets::Minima;
    match (panel.weights.bits(), panel.x.block, minima) {
        (2, 32, false) => sized::<2, 8, false>(panel, place, scratch),
        (2, _, false) => sized::<2, 16, false>(panel, place, scratch),
        (3, 32, false) => sized::<3, 8, false>(panel, place, scratch),
        (3, _, false) => sized::<3, 16, false>(panel, place, scratch),
        (4, 32, false) => sized::<4, 8, false>(panel, place, scratch),
        (4, _, false) => sized::<4, 16, false>(panel, place, scratch),
        (4, 32, true) => sized::<4, 8, true>(panel, place, scratch),
        (5, 32, false) => sized::<5, 8, false>(panel, place, scratch),
        (5, 32, true) => sized::<5, 8, true>(panel, place, scratch),
        (8, 32, false) => sized::<8, 8, false>(panel, place, scratch),
        (8, _, false) => sized::<8, 16, false>(panel, place, scratch),
        (bits, block, _) => panic!("no layout has {bits} bits, blocks of {block} and minima {minima}"),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sized<'y, const BITS: u32, const QUADS: usize, const MINIMA: bool>(
    panel: &Panel<'_>,
    place: &Place<'_, 'y>,
    scratch: &mut Aligned,
) {
    let (m, tiles) = (panel.x.m, panel.tiles.clone());
    if m <= FEW {
        for tile in tiles {
            match m {
                FEW => few::<BITS, QUADS, MINIMA, FEW>(panel, (0, tile), place),
                // A tile stays in the L1 cache for the next row.
                _ => {
                    for row in 0..m {
                        few::<BITS, QUADS, MINIMA, 1>(panel, (row, tile), place);
                    }
                }
            }
        }
        return;
    }
    let per_tile = panel.unpacked_bytes();
    let scratch = scratch.numbers::<u8>(PAIR * per_tile);
    for first in tiles.clone().step_by(PAIR) {
        let pair = first..(first + PAIR).min(tiles.end);
        for (tile, to) in pair.clone().zip(scratch.chunks_exact_mut(per_tile)) {
            unpack::<BITS, QUADS>(panel.weights.tile(tile).codes, to);
        }
        for row in (0..m).step_by(TALL) {
            match pair.len() {
                2 => rows::<QUADS, MINIMA, 2>(panel, scratch, (row, first), place),
                _ => rows::<QUADS, MINIMA, 1>(panel, scratch, (row, first), place),
            }
        }
    }
}

/// Quad `quad` of the eight quads from `8 * half` on, unpacked.
///
/// # Safety
/// `block` points at the `BITS * QUADS * 8` bytes of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn quad_codes<const BITS: u32, const QUADS: usize>(
    block: *const u8,
    half: usize,
    quad: usize,
) -> __m512i {
    let width = if BITS.is_power_of_two() { BITS } else { BITS - 1 };
    let (at, shift) = quad_of(width, quad);
    let at = at + half * QUAD_BYTES * width as usize;
    // SAFETY: the caller's promise: the quad's 64 bytes lie in the block.
    let low = unsafe { _mm512_loadu_si512(block.add(at).cast()) };
    if BITS == 8 {
        return low;
    }
    // Bits of the next byte that a 16-bit shift lets in are masked off.
    let low = _mm512_srlv_epi16(low, _mm512_set1_epi16(shift as i16));
    let low = _mm512_and_si512(low, _mm512_set1_epi8((1 << width) - 1));
    if width == BITS {
        return low;
    }
    let shift = quad as u32;
    let at = (QUADS / 8 * width as usize + half) * QUAD_BYTES;
    // SAFETY: as above; the plane of the highest bit follows the first.
    let high = unsafe { _mm512_loadu_si512(block.add(at).cast()) };
    let high = if shift >= width {
        _mm512_srlv_epi16(high, _mm512_set1_epi16((shift - width) as i16))
    } else {
        _mm512_sllv_epi16(high, _mm512_set1_epi16((width - shift) as i16))
    };
    // low | (high & bit)
    _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi8(1 << width))
}

/// Repeats a block for `$i` = 0 to 7, each a constant: a loop would leave the shifts of codes
/// to be found at run time, and the sums in memory.
macro_rules! eight {
    ($i:ident => $body:block) => {
        eight!($i => $body, 0 1 2 3 4 5 6 7)
    };
    ($i:ident => $body:block, $($value:literal)*) => {
        $({
            const $i: usize = $value;
            $body
        })*
    };
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn unpack<const BITS: u32, const QUADS: usize>(codes: &[u8], out: &mut [u8]) {
    let blocks = codes.chunks_exact(QUADS * QUAD_BYTES * BITS as usize / 8);
    for (block, out) in blocks.zip(out.chunks_exact_mut(QUADS * QUAD_BYTES)) {
        for half in 0..QUADS / 8 {
            eight!(Q => {
                // SAFETY: a whole block is read, and 64 bytes are written for each quad.
                unsafe {
                    let codes = quad_codes::<BITS, QUADS>(block.as_ptr(), half, Q);
                    _mm512_storeu_si512(out.as_mut_ptr().add((half * 8 + Q) * QUAD_BYTES).cast(), codes);
                }
            });
        }
    }
}

/// Unpacks all codes of a tile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn unpack_tile(weights: &TileMatrix, tile: usize, out: &mut [u8]) {
    let codes = weights.tile(tile).codes;
    match (weights.bits(), weights.block()) {
        (2, 32) => unpack::<2, 8>(codes, out),
        (2, _) => unpack::<2, 16>(codes, out),
        (3, 32) => unpack::<3, 8>(codes, out),
        (3, _) => unpack::<3, 16>(codes, out),
        (4, 32) => unpack::<4, 8>(codes, out),
        (4, _) => unpack::<4, 16>(codes, out),
        (5, 32) => unpack::<5, 8>(codes, out),
        (8, 32) => unpack::<8, 8>(codes, out),
        (8, _) => unpack::<8, 16>(codes, out),
        (bits, block) => panic!("no layout has {bits} bits and blocks of {block}"),
    }
}

/// Four codes of x, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn broadcast(codes: *const i8) -> __m512i {
    // SAFETY: the caller promises four readable codes.
    _mm512_set1_epi32(unsafe { codes.cast::<i32>().read_unaligned() })
}

/// One tile by the `M` rows of x from `row` on, straight from the packed codes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn few<'y, const BITS: u32, const QUADS: usize, const MINIMA: bool, const M: usize>(
    panel: &Panel<'_>,
    (row, tile): (usize, usize),
    place: &Place<'_, 'y>,
) {
    let codes = panel.weights.tile(tile).codes;
    panel.weights.prefetch_units(tile + 1);
    let block_bytes = QUADS * QUAD_BYTES * BITS as usize / 8;
    assert!(panel.x.block == QUADS * QUAD && codes.len() == panel.x.blocks * block_bytes);
    let grid = panel.grid(tile);
    let x: [*const i8; M] = std::array::from_fn(|r| panel.x.row(row + r).as_ptr());
    let mut sums = [_mm512_setzero_ps(); M];
    for group in 0..panel.weights.groups() {
        let at = At::of(&grid, group);
        for block in panel.blocks_of(group) {
            // Two chains of sums a row: one would wait for itself.
            let mut dots = [[_mm512_setzero_si512(); 2]; M];
            for half in 0..QUADS / 8 {
                let here = block * block_bytes + half * BITS as usize * LINE;
                for line in 0..BITS as usize {
                    prefetch(codes.as_ptr().wrapping_add(here + line * LINE + AHEAD));
                }
                eight!(Q => {
                    // SAFETY: the block lies in `codes`, and a row of x has `QUADS` quads in it.
                    unsafe {
                        let from = codes.as_ptr().add(block * block_bytes);
                        let c = quad_codes::<BITS, QUADS>(from, half, Q);
                        for r in 0..M {
                            let q = broadcast(x[r].add((block * QUADS + half * 8 + Q) * QUAD));
                            dots[r][Q % 2] = _mm512_dpbusd_epi32(dots[r][Q % 2], c, q);
                        }
                    }
                });
            }
            let units = Units::of(&panel.x, (row, M), block);
            for r in 0..M {
                let dot = _mm512_add_epi32(dots[r][0], dots[r][1]);
                // SAFETY: the units are those of all `M` rows.
                sums[r] = unsafe { at.add::<MINIMA>(sums[r], dot, units, r) };
            }
        }
    }
    for r in 0..M {
        store(place(row + r, panel.columns(tile)), sums[r]);
    }
}

/// Up to `TALL` rows of x from `row` on by the `NR` unpacked tiles from `tile` on.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows<'y, const QUADS: usize, const MINIMA: bool, const NR: usize>(
    panel: &Panel<'_>,
    codes: &[u8],
    (row, tile): (usize, usize),
    place: &Place<'_, 'y>,
) {
    if panel.x.m - row >= TALL {
        return many::<QUADS, MINIMA, TALL, NR>(panel, codes, (row, tile), place);
    }
    for row in row..panel.x.m {
        many::<QUADS, MINIMA, 1, NR>(panel, codes, (row, tile), place);
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn many<'y, const QUADS: usize, const MINIMA: bool, const M: usize, const NR: usize>(
    panel: &Panel<'_>,
    codes: &[u8],
    (row, tile): (usize, usize),
    place: &Place<'_, 'y>,
) {
    let per_tile = panel.x.blocks * QUADS * QUAD_BYTES;
    assert!(panel.x.block == QUADS * QUAD && codes.len() >= NR * per_tile);
    let grids: [Grid<'_>; NR] = std::array::from_fn(|n| panel.grid(tile + n));
    let x: [*const i8; M] = std::array::from_fn(|r| panel.x.row(row + r).as_ptr());
    let mut sums = [[_mm512_setzero_ps(); NR]; M];
    for group in 0..panel.weights.groups() {
        let mut at = [At::of(&grids[0], group); NR];
        for n in 1..NR {
            at[n] = At::of(&grids[n], group);
        }
        for block in panel.blocks_of(group) {
            let mut dots = [[_mm512_setzero_si512(); NR]; M];
            for quad in block * QUADS..(block + 1) * QUADS {
                let mut c = [_mm512_setzero_si512(); NR];
                for n in 0..NR {
                    // SAFETY: every tile has `blocks * QUADS` unpacked quads.
                    c[n] = unsafe {
                        _mm512_loadu_si512(codes.as_ptr().add(n * per_tile + quad * QUAD_BYTES).cast())
                    };
                }
                for r in 0..M {
                    // SAFETY: so has every row of x.
                    let q = unsafe { broadcast(x[r].add(quad * QUAD)) };
                    for n in 0..NR {
                        dots[r][n] = _mm512_dpbusd_epi32(dots[r][n], c[n], q);
                    }
                }
            }
            let units = Units::of(&panel.x, (row, M), block);
            for n in 0..NR {
                for r in 0..M {
                    // SAFETY: the units are those of all `M` rows.
                    sums[r][n] = unsafe { at[n].add::<MINIMA>(sums[r][n], dots[r][n], units, r) };
                }
            }
        }
    }
    for r in 0..M {
        for n in 0..NR {
            store(place(row + r, panel.columns(tile + n)), sums[r][n]);
        }
    }
}

/// Scales and sums of some rows of x in one block.
#[derive(Clone, Copy)]
pub(super) struct Units {
    scales: *const f32,
    sums: *const i32,
}

impl Units {
    /// Those of the `count` rows from `row` on.
    #[inline(always)]
    pub(super) fn of(x: &Codes<'_>, (row, count): (usize, usize), block: usize) -> Self {
        let at = block * x.m + row;
        Self { scales: x.scales[at..at + count].as_ptr(), sums: x.sums[at..at + count].as_ptr() }
    }
}

/// Scales and offsets of a tile in one group.
#[derive(Clone, Copy)]
pub(super) struct At {
    scale: __m512,
    zero: __m512i,
    /// Zero where there are no minima.
    minimum: __m512,
}

impl At {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn of(grid: &Grid<'_>, group: usize) -> Self {
        let lanes = group * TILE..(group + 1) * TILE;
        let zero = match grid.zeros {
            None => _mm512_set1_epi32(grid.middle),
            // SAFETY: 16 bytes are read.
            Some(zeros) => unsafe {
                _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros[lanes.clone()].as_ptr().cast()))
            },
        };
        let minimum = match grid.minima {
            None => _mm512_setzero_ps(),
            Some(minima) => floats(&minima[lanes.clone()]),
        };
        Self { scale: floats(&grid.scales[lanes]), zero, minimum }
    }

    /// As `Grid::add`, for 16 lanes.
    ///
    /// # Safety
    /// `x` has units of row `row`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn add<const MINIMA: bool>(
        &self,
        sum: __m512,
        dot: __m512i,
        x: Units,
        row: usize,
    ) -> __m512 {
        // SAFETY: the caller's promise.
        let (t, u) = unsafe { (_mm512_set1_ps(*x.scales.add(row)), _mm512_set1_epi32(*x.sums.add(row))) };
        let e = _mm512_cvtepi32_ps(_mm512_sub_epi32(dot, _mm512_mullo_epi32(self.zero, u)));
        let sum = _mm512_fmadd_ps(e, _mm512_mul_ps(self.scale, t), sum);
        if MINIMA { _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), _mm512_mul_ps(self.minimum, t), sum) } else { sum }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn floats(values: &[half::f16]) -> __m512 {
    assert_eq!(values.len(), TILE);
    // SAFETY: 16 values of 16 bits are read.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}

/// As many lanes as there is room for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn store(out: &mut [f32], value: __m512) {
    let mask = ((1u32 << out.len().min(TILE)) - 1) as __mmask16;
    // SAFETY: lanes behind `out` are masked off.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, value) };
}
