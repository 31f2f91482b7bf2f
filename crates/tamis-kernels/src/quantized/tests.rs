//! Bits against the reference on every instruction set, and values against the product of
//! the decoded weights with x as it is.

use half::f16;

use super::*;
use crate::linear::noise;
use crate::pack::{GgmlMatrix, GgmlType, PackedMatrix, SparseRows};
use crate::pool::Pool;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::tile_unit::emulated::Emulated;

fn packed(n: usize, k: usize, bits: u32, group: usize, asymmetric: bool) -> TileMatrix {
    let codes: Vec<u8> =
        noise(n * k, bits).iter().map(|v| ((v + 0.5) * ((1 << bits) - 1) as f32).round() as u8).collect();
    let groups = n * k.div_ceil(group);
    let scales = noise(groups, 7).iter().map(|v| f16::from_f32(v * 0.1)).collect();
    let zeros = asymmetric.then(|| (0..groups).map(|i| (i * 5 % (1 << bits)) as u8).collect());
    let packed = PackedMatrix::from_codes((n, k), bits, group, &codes, scales, zeros).unwrap();
    TileMatrix::from_packed(&Pool::new(1), &packed).unwrap()
}

fn ggml(kind: GgmlType, n: usize, k: usize) -> TileMatrix {
    let bytes = kind.bytes_of(n * k).unwrap();
    let mut data: Vec<u8> = noise(bytes, 3).iter().map(|v| (v * 256.0) as i32 as u8).collect();
    for block in data.chunks_exact_mut(kind.block_bytes()) {
        // Finite scales and minima: an exponent of 15 at most.
        (block[1], block[3]) = (block[1] & 0x3b, block[3] & 0x3b);
    }
    TileMatrix::from_ggml(&Pool::new(1), &GgmlMatrix::new(kind, n, k, data).unwrap()).unwrap()
}

fn matrices(n: usize, k: usize) -> Vec<TileMatrix> {
    let mut all = Vec::new();
    for bits in [2, 3, 4, 8] {
        for group in [32, 64, 128, k].into_iter().filter(|group| *group <= k) {
            all.extend([false, true].map(|asymmetric| packed(n, k, bits, group, asymmetric)));
        }
    }
    if k.is_multiple_of(32) {
        use GgmlType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
        all.extend([Q4_0, Q4_1, Q5_0, Q5_1, Q8_0].map(|kind| ggml(kind, n, k)));
    }
    all
}

fn sparse_of(cols: usize, dense: &[f32]) -> SparseRows {
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in dense.chunks_exact(cols) {
        for (column, value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            columns.push(column as u16);
            values.push(f16::from_f32(*value));
        }
        starts.push(columns.len() as u32);
    }
    SparseRows::new((dense.len() / cols, cols), starts, columns, values).unwrap()
}

fn product(cpu: &Cpu, x: &[f32], weights: &TileMatrix) -> Vec<f32> {
    let mut y = vec![9.0; x.len() / weights.cols() * weights.rows()];
    linear(cpu, x, &mut [Product { weights, stream: None, y: &mut y }]);
    y
}

/// As `product`, by the kernel for tiles with an emulated unit, `share` tiles a task; nothing
/// where the machine has no vectors for the rest of that kernel.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn emulated(x: &[f32], weights: &TileMatrix, share: usize) -> Option<Vec<f32>> {
    let isa = Isa::available().into_iter().find(|isa| isa.avx512().is_some() && isa.has_vnni())?;
    let (n, k) = (weights.rows(), weights.cols());
    let mut buffers = [const { Aligned::new() }; 3];
    let x = input::quantize(&Cpu::new(isa, 1), x, (k, weights.block()), &mut buffers);
    let (mut y, mut scratch) = (vec![9.0; x.m * n], Aligned::new());
    let out = Disjoint::new(&mut y);
    // SAFETY: one thread takes one place at a time.
    let place =
        |row: usize, columns: Range<usize>| unsafe { out.slice(row * n + columns.start, columns.len()) };
    for first in (0..weights.tiles()).step_by(share) {
        let tiles = first..(first + share).min(weights.tiles());
        let mut unit = Emulated::default();
        // SAFETY: the tokens above prove the features that the function enables.
        unsafe { amx::panel(&mut unit, &Panel { weights, x, tiles }, &place, &mut scratch) };
        assert_eq!(unit.turns, (1, 1), "one configuration a task, released at its end");
    }
    Some(y)
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| y.to_bits()).collect()
}

#[test]
fn every_isa_gives_the_bits_of_the_reference_at_awkward_sizes() {
    for (n, k) in [(1, 32), (15, 64), (16, 65), (17, 31), (33, 96), (47, 160), (64, 576), (50, 200)] {
        for weights in matrices(n, k) {
            for m in [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 33] {
                let x = noise(m * k, 11);
                let expected = product(&Cpu::new(Isa::SCALAR, 1), &x, &weights);
                for isa in Isa::available() {
                    let y = product(&Cpu::new(isa, 2), &x, &weights);
                    assert_eq!(bits(&y), bits(&expected), "{} {m} rows, {weights:?}", isa.name());
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn emulated_tiles_give_the_bits_of_the_reference_at_awkward_sizes() {
    for (n, k) in [(1, 32), (15, 64), (16, 65), (17, 31), (33, 96), (47, 160), (64, 576), (50, 200)] {
        for weights in matrices(n, k) {
            for (m, share) in
                [1, 2, 5, 15, 16, 17, 31, 32, 33, 48, 65].into_iter().zip([1, 2, 3, 64].into_iter().cycle())
            {
                let x = noise(m * k, 11);
                let Some(y) = emulated(&x, &weights, share) else {
                    return println!("skipped: the kernel for tiles needs AVX-512 with VNNI");
                };
                let expected = product(&Cpu::new(Isa::SCALAR, 1), &x, &weights);
                assert_eq!(bits(&y), bits(&expected), "{m} rows, {share} tiles a task, {weights:?}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_on_any_threads() {
    let (n, k, m) = (200, 576, 37);
    let x = noise(m * k, 5);
    for isa in Isa::available() {
        for weights in [packed(n, k, 4, 64, false), packed(n, k, 3, 64, true), ggml(GgmlType::Q4_1, n, k)] {
            let all = product(&Cpu::new(isa, 1), &x, &weights);
            for threads in [2, 3, 8] {
                assert_eq!(bits(&product(&Cpu::new(isa, threads), &x, &weights)), bits(&all));
            }
            for (x, all) in x.chunks_exact(k).zip(all.chunks_exact(n)) {
                assert_eq!(bits(&product(&Cpu::new(isa, 1), x, &weights)), bits(all));
            }
        }
    }
}

#[test]
fn the_error_is_that_of_the_rounded_activations() {
    let (n, k, m) = (40, 576, 6);
    let x = noise(m * k, 21);
    let isa = Isa::detect();
    for weights in matrices(n, k) {
        let y = product(&Cpu::new(isa, 2), &x, &weights);
        let mut row = vec![0.0; k];
        for j in 0..n {
            weights.decode_row(j, &mut row);
            for i in 0..m {
                let x = &x[i * k..][..k];
                let exact: f64 = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                // Half a unit of the block's scale for each weight, and f32 sums.
                let bound: f64 = x
                    .chunks(weights.block())
                    .zip(row.chunks(weights.block()))
                    .map(|(x, w)| {
                        let unit = f64::from(x.iter().fold(0.0f32, |a, b| a.max(b.abs()))) / 127.0;
                        w.iter().map(|w| f64::from(w.abs()) * (0.501 * unit + 1e-6)).sum::<f64>()
                    })
                    .sum();
                let error = (f64::from(y[i * n + j]) - exact).abs();
                assert!(error <= bound + 1e-5, "{weights:?}: {error} of {bound}");
            }
        }
    }
}

#[test]
fn several_products_and_a_stream_share_one_pass() {
    let (k, m) = (128, 9);
    let x = noise(m * k, 2);
    let weights = [packed(48, k, 4, 64, false), packed(20, k, 8, 32, true), packed(7, k, 3, 128, false)];
    let dense: Vec<f32> = noise(20 * k, 9).iter().map(|v| if *v > 0.45 { *v } else { 0.0 }).collect();
    let stream = SparseTiles::from_rows(&sparse_of(k, &dense));
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let mut y: Vec<_> = weights.iter().map(|w| vec![0.0; m * w.rows()]).collect();
        let mut products: Vec<_> =
            weights.iter().zip(&mut y).map(|(weights, y)| Product { weights, stream: None, y }).collect();
        products[1].stream = Some((&stream, 0.5));
        linear(&cpu, &x, &mut products);
        for (index, (weights, y)) in weights.iter().zip(&y).enumerate() {
            let mut expected = product(&cpu, &x, weights);
            if index == 1 {
                for (x, y) in x.chunks_exact(k).zip(expected.chunks_exact_mut(20)) {
                    for (w, y) in dense.chunks_exact(k).zip(y) {
                        *y += 0.5 * w.iter().zip(x).map(|(w, x)| f16::from_f32(*w).to_f32() * x).sum::<f32>();
                    }
                }
                assert!(y.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
            } else {
                assert_eq!(bits(y), bits(&expected));
            }
        }
    }
}

#[test]
fn zeros_give_zeros_and_what_is_not_finite_stays_so() {
    let weights = packed(20, 128, 4, 64, false);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 1);
        assert!(product(&cpu, &[0.0; 128], &weights).iter().all(|y| *y == 0.0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(128, 1);
            x[70] = bad;
            assert!(product(&cpu, &x, &weights).iter().all(|y| y.is_nan()), "{} {bad}", isa.name());
        }
    }
}
