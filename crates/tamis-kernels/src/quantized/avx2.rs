//! Eight rows a vector. `vpmaddubsw` adds pairs of products in 16 bits: of codes up to 15,
//! eight quads fit (8 * 2 * 15 * 127 = 30480), so those are added in 16 bits first. Wider codes
//! are multiplied as their two halves of 4 bits, `c = low + 16 high`.

use std::arch::x86_64::*;

use super::{Grid, Panel, Place, unpack};
use crate::aligned::Aligned;
use crate::pack::tiles::{QUAD, QUAD_BYTES, TILE};

/// Quads whose products are added in 16 bits.
const RUN: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn panel<'y>(panel: &Panel<'_>, place: &Place<'_, 'y>, scratch: &mut Aligned) {
    let x = panel.x;
    let codes = scratch.numbers::<u8>(panel.unpacked_bytes());
    let wide = panel.weights.bits() > 4;
    for tile in panel.tiles.clone() {
        unpack(panel.weights, tile, codes);
        let grid = panel.grid(tile);
        let columns = panel.columns(tile);
        for row in 0..x.m {
            let mut y = [_mm256_setzero_ps(); 2];
            let input = x.row(row);
            for block in 0..x.blocks {
                let q = &input[block * x.block..][..x.block];
                let c = &codes[block * x.block * TILE..][..x.block * TILE];
                for (half, y) in y.iter_mut().enumerate() {
                    let dot = match wide {
                        false => dot::<0>(q, c, half),
                        true => _mm256_add_epi32(
                            dot::<0>(q, c, half),
                            _mm256_slli_epi32::<4>(dot::<4>(q, c, half)),
                        ),
                    };
                    *y = add(&grid, *y, (half, block), dot, x.unit(row, block));
                }
            }
            let mut lanes = [0.0; TILE];
            // SAFETY: two vectors of eight are the 16 lanes.
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), y[0]);
                _mm256_storeu_ps(lanes.as_mut_ptr().add(8), y[1]);
            }
            let count = columns.len();
            place(row, columns.clone()).copy_from_slice(&lanes[..count]);
        }
    }
}

/// `sum q c'` of eight rows, where `c'` are the four bits of the codes from `SHIFT` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const SHIFT: i32>(q: &[i8], c: &[u8], half: usize) -> __m256i {
    assert!(c.len() == q.len() * TILE && q.len().is_multiple_of(RUN * QUAD));
    let low = _mm256_set1_epi8(15);
    let mut sum = _mm256_setzero_si256();
    for run in (0..q.len() / QUAD).step_by(RUN) {
        let mut pairs = _mm256_setzero_si256();
        for quad in run..run + RUN {
            // SAFETY: `c` has 64 bytes and `q` four for every quad.
            let (c, q) = unsafe {
                (
                    _mm256_loadu_si256(c.as_ptr().add(quad * QUAD_BYTES + half * 32).cast()),
                    q.as_ptr().add(quad * QUAD).cast::<i32>().read_unaligned(),
                )
            };
            let c = _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(c), low);
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(c, _mm256_set1_epi32(q)));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    sum
}

/// The sums so far with one block, as `Grid::add` for eight lanes.
#[target_feature(enable = "avx2,fma,f16c")]
fn add(
    grid: &Grid<'_>,
    sum: __m256,
    (half, block): (usize, usize),
    dot: __m256i,
    (t, u): (f32, i32),
) -> __m256 {
    let at = block / grid.per_group * TILE + half * 8;
    let halves = |values: &[half::f16]| {
        let eight = &values[at..at + 8];
        // SAFETY: eight values of 16 bits are read.
        unsafe { _mm_loadu_si128(eight.as_ptr().cast()) }
    };
    let (wide_t, wide_u) = (_mm256_set1_ps(t), _mm256_set1_epi32(u));
    let zero = match grid.zeros {
        None => _mm256_set1_epi32(grid.middle),
        Some(zeros) => {
            let eight = zeros[at..at + 8].first_chunk::<8>().expect("eight zeros");
            _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*eight)))
        }
    };
    let e = _mm256_sub_epi32(dot, _mm256_mullo_epi32(zero, wide_u));
    let scale = _mm256_mul_ps(_mm256_cvtph_ps(halves(grid.scales)), wide_t);
    let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(e), scale, sum);
    let Some(minima) = grid.minima else { return sum };
    let minimum = _mm256_mul_ps(_mm256_cvtph_ps(halves(minima)), wide_t);
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide_u), minimum, sum)
}
