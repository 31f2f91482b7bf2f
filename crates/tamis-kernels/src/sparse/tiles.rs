//! The product of a stream in tiles, with the bits of the product of sparse rows: products are
//! rounded, and a row's are added in their order starting from 0 (a rank that a row is not in
//! adds 0 to it).

use std::ops::Range;

use super::{Entries, Input, SCRATCH, add_sides, multiply};
use crate::aligned::prefetch_all;
use crate::isa::Isa;
use crate::pack::tiles::{SparseTiles, TILE};

/// Asks for the memory of some tiles of the stream, to be called before other work.
pub(crate) fn prefetch_tiles(stream: &SparseTiles, tiles: Range<usize>) {
    prefetch_all(stream.data_of(tiles));
}

/// Adds the product with `tiles` of the stream; `place(i)` is `y[i, rows of the tiles]`.
pub(crate) fn add_tiles<'y>(
    isa: Isa,
    x: Input<'_>,
    (stream, alpha): (&SparseTiles, f32),
    tiles: Range<usize>,
    mut place: impl FnMut(usize) -> &'y mut [f32],
) {
    let mut scratch = SCRATCH.take();
    match x {
        Input::Row(x) => {
            for (tile, y) in tiles.zip(place(0).chunks_mut(TILE)) {
                let tile = stream.tile(tile);
                // A whole vector can be read at every product.
                let count = tile.columns.len() + TILE;
                scratch.resize(count.max(scratch.len()), 0.0);
                multiply(isa, x, tile.columns, tile.values, &mut scratch[..tile.columns.len()]);
                sum_tile(isa, &scratch[..count], tile.masks, alpha, y);
            }
        }
        Input::Transposed(x, m) => {
            let rows = Rows::of(stream, tiles);
            let entries = Entries { starts: &rows.starts, columns: &rows.columns, values: &rows.values };
            add_sides(isa, (x, m, stream.cols()), (entries, alpha), &mut scratch, place);
        }
    }
    SCRATCH.set(scratch);
}

/// Entries of some tiles, row by row: for many rows of x a row's sums stay in registers.
struct Rows {
    /// `[rows + 1]`, the rows behind the last included.
    starts: Vec<u32>,
    columns: Vec<u16>,
    values: Vec<f32>,
}

impl Rows {
    fn of(stream: &SparseTiles, tiles: Range<usize>) -> Self {
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for tile in tiles {
            let tile = stream.tile(tile);
            for lane in 0..TILE {
                let mut at = 0;
                for mask in tile.masks {
                    if mask >> lane & 1 == 1 {
                        let entry = at + (mask & ((1 << lane) - 1)).count_ones() as usize;
                        columns.push(tile.columns[entry]);
                        values.push(tile.values[entry].to_f32());
                    }
                    at += mask.count_ones() as usize;
                }
                // A sparse matrix counts its entries in 32 bits.
                starts.push(columns.len() as u32);
            }
        }
        Self { starts, columns, values }
    }
}

/// Adds alpha times the sum of each row's products.
fn sum_tile(isa: Isa, products: &[f32], masks: &[u16], alpha: f32, y: &mut [f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if isa.avx512().is_some() {
        // SAFETY: the token proves the features.
        return unsafe { sum_tile_avx512(products, masks, alpha, y) };
    }
    let _ = isa;
    let (mut sums, mut at) = ([0.0; TILE], 0);
    for mask in masks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            if mask >> lane & 1 == 1 {
                *sum += products[at];
                at += 1;
            }
        }
    }
    y.iter_mut().zip(sums).for_each(|(y, sum)| *y += alpha * sum);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,popcnt")]
fn sum_tile_avx512(products: &[f32], masks: &[u16], alpha: f32, y: &mut [f32]) {
    use std::arch::x86_64::*;
    let (mut sum, mut at) = (_mm512_setzero_ps(), 0);
    for mask in masks {
        let sixteen = products[at..].first_chunk::<TILE>().expect("a whole vector behind the last");
        // SAFETY: 16 products are read.
        sum = _mm512_add_ps(sum, _mm512_maskz_expand_ps(*mask, unsafe { _mm512_loadu_ps(sixteen.as_ptr()) }));
        at += mask.count_ones() as usize;
    }
    let lanes = ((1u32 << y.len().min(TILE)) - 1) as __mmask16;
    // SAFETY: lanes behind `y` are masked off.
    unsafe {
        let before = _mm512_maskz_loadu_ps(lanes, y.as_ptr());
        let after = _mm512_add_ps(before, _mm512_mul_ps(_mm512_set1_ps(alpha), sum));
        _mm512_mask_storeu_ps(y.as_mut_ptr(), lanes, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::noise;
    use crate::pack::SparseRows;
    use crate::pool::Cpu;
    use crate::sparse::add_panel;

    fn rows_of(n: usize, k: usize, density: f32) -> SparseRows {
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        let (chance, weights) = (noise(n * k, 3), noise(n * k, 4));
        for i in 0..n {
            for j in (0..k).filter(|j| chance[i * k + j] + 0.5 < density * (i % 5) as f32) {
                columns.push(j as u16);
                values.push(half::f16::from_f32(weights[i * k + j]));
            }
            starts.push(columns.len() as u32);
        }
        SparseRows::new((n, k), starts, columns, values).unwrap()
    }

    #[test]
    fn tiles_give_the_bits_of_rows() {
        for (n, k, density) in [(1, 5, 0.5), (16, 64, 0.1), (33, 576, 0.004), (50, 40, 0.0), (64, 128, 0.25)]
        {
            let rows = rows_of(n, k, density);
            let tiles = SparseTiles::from_rows(&rows);
            assert_eq!((tiles.rows(), tiles.cols(), tiles.entries()), (n, k, rows.entries()));
            for row in 0..n {
                let (mut a, mut b) = (noise(k, 1), noise(k, 1));
                rows.add_row(row, 0.7, &mut a);
                tiles.add_row(row, 0.7, &mut b);
                assert_eq!(a, b);
            }
            for (m, isa) in
                [1, 2, 16, 19].into_iter().flat_map(|m| Isa::available().into_iter().map(move |i| (m, i)))
            {
                let (cpu, x) = (Cpu::new(isa, 1), noise(m * k, 7));
                let mut buffers = [crate::aligned::Aligned::new(), crate::aligned::Aligned::new()];
                let [first, second] = &mut buffers;
                let (mut want, mut got) = (noise(m * n, 8), noise(m * n, 8));
                let slots = crate::pool::Disjoint::new(&mut want);
                let input = Input::new(&cpu, &x, k, first);
                // SAFETY: rows are asked for one after the other.
                add_panel(isa, input, (&rows, 0.7), 0..n, |i| unsafe { slots.slice(i * n, n) });
                let slots = crate::pool::Disjoint::new(&mut got);
                let input = Input::new(&cpu, &x, k, second);
                // SAFETY: as above.
                add_tiles(isa, input, (&tiles, 0.7), 0..n.div_ceil(TILE), |i| unsafe {
                    slots.slice(i * n, n)
                });
                assert_eq!(got, want, "{} {m}x{k}x{n}", isa.name());
            }
        }
    }
}
