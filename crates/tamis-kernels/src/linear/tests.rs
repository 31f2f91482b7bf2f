//! The product on every instruction set against the reference, and its bits against
//! themselves for other tiles and other numbers of threads.

use half::{bf16, f16};

use super::*;
use crate::isa::Isa;
use crate::pack::{DenseF32, DenseHalf, HalfData, PackedMatrix, SievedRows, SparseRows};

/// A sum of k products of values below 1: each product and each of the few dozen
/// roundings on the way to the sum is within 2^-24 of the largest partial sum.
const TOLERANCE: f64 = 1e-5;

pub(crate) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// A kernel of the linear map.
type Product = fn(&Cpu, &[f32], &dyn RowSource, Precision, &mut [f32]);

#[test]
fn every_isa_agrees_with_the_reference_at_awkward_sizes() {
    let lengths = [1, 7, 8, 15, 16, 17, 31, 33, 172, 576, 768, 769, 1537, 1600];
    let sizes = [(0, 3), (1, 1), (1, 97), (2, 5), (3, 13), (5, 12), (9, 100), (101, 7)];
    agrees_with_the_reference(linear, &lengths, &sizes);
}

/// At all lengths of a row, and sizes `(m, n)` of the result, on every instruction set.
pub(crate) fn agrees_with_the_reference(product: Product, lengths: &[usize], sizes: &[(usize, usize)]) {
    for &k in lengths {
        for &(m, n) in sizes {
            let x = noise(m * k, 1);
            let w = DenseF32::new(n, k, noise(n * k, 2)).unwrap();
            for precision in [Precision::F32, Precision::Bf16] {
                let mut expected = vec![0.0; m * n];
                scalar::linear(&x, &w, precision, &mut expected);
                for isa in Isa::available() {
                    let mut y = vec![9.0; m * n];
                    product(&Cpu::new(isa, 2), &x, &w, precision, &mut y);
                    for (a, b) in y.iter().zip(&expected) {
                        let near = (f64::from(*a) - f64::from(*b)).abs() <= TOLERANCE * (k as f64).sqrt();
                        assert!(near, "{} {precision:?} {m}x{k}x{n}: {a} {b}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_chunk_on_any_threads() {
    for (isa, k) in Isa::available().into_iter().flat_map(|isa| [(isa, 1700), (isa, 1024)]) {
        let n = 131;
        for precision in [Precision::F32, Precision::Bf16] {
            let x = noise(103 * k, 3);
            let w = DenseF32::new(n, k, noise(n * k, 4)).unwrap();
            let mut alone = vec![0.0; 103 * n];
            let one = Cpu::new(isa, 1);
            for (x, y) in x.chunks_exact(k).zip(alone.chunks_exact_mut(n)) {
                linear(&one, x, &w, precision, y);
            }
            for threads in [1, 2, 3, 8] {
                let mut y = vec![0.0; 103 * n];
                linear(&Cpu::new(isa, threads), &x, &w, precision, &mut y);
                assert!(y.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads}");
            }
        }
    }
}

/// W of every layout: what they decode to is what is multiplied, by many rows and by one.
#[test]
fn every_layout_is_multiplied_as_it_decodes() {
    // Vectors and blocks of the sum that end early, at a group, and inside one.
    for (k, group) in [(172, 32), (16, 16), (176, 64), (800, 80), (1600, 32), (1552, 1552)] {
        check_layouts(29, k, group);
    }
}

fn check_layouts(n: usize, k: usize, group: usize) {
    let m = 19;
    let codes = |bits: u32| {
        (0..n * k).map(move |i| (((i * 7919) >> 3) & ((1 << bits) - 1)) as u8).collect::<Vec<_>>()
    };
    let groups = n * k.div_ceil(group);
    let scales = || (0..groups).map(|i| f16::from_f32(0.01 + 0.001 * (i % 7) as f32)).collect();
    let packed = |bits: u32, zeros| {
        PackedMatrix::from_codes((n, k), bits, group, &codes(bits), scales(), zeros).unwrap()
    };
    let symmetric = [2, 3, 4, 8].map(|bits| packed(bits, None));
    let zeros = |bits: u32| Some((0..groups).map(|i| (i * 5 % (1 << bits)) as u8).collect());
    let asymmetric = [2, 3, 4, 8].map(|bits| packed(bits, zeros(bits)));
    let values = noise(n * k, 7);
    let f16s = HalfData::F16(values.iter().map(|&v| f16::from_f32(v)).collect());
    let bf16s = HalfData::Bf16(values.iter().map(|&v| bf16::from_f32(v)).collect());
    let halves = [f16s, bf16s].map(|data| DenseHalf::new(n, k, data).unwrap());
    let mut all: Vec<&dyn RowSource> =
        symmetric.iter().chain(&asymmetric).map(|w| w as &dyn RowSource).collect();
    all.extend(halves.iter().map(|w| w as &dyn RowSource));
    let x = noise(m * k, 8);
    for weights in all {
        let mut decoded = vec![0.0; n * k];
        decoded.chunks_exact_mut(k).enumerate().for_each(|(j, row)| weights.decode_row(j, row));
        let dense = DenseF32::new(n, k, decoded).unwrap();
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                for rows in [1, m] {
                    let (mut a, mut b) = (vec![0.0; rows * n], vec![0.0; rows * n]);
                    linear(&Cpu::new(isa, 2), &x[..rows * k], weights, precision, &mut a);
                    linear(&Cpu::new(isa, 1), &x[..rows * k], &dense, precision, &mut b);
                    assert_eq!(a, b, "{} {precision:?} {k} {group}", isa.name());
                }
            }
        }
    }
}

/// Base and stream are multiplied apart and added: near the product with their sum, and
/// the same bits for a row alone and among others.
#[test]
fn a_stream_is_added_to_the_product_of_its_base() {
    let (n, k, m) = (205, 176, 37);
    let codes: Vec<u8> = (0..n * k).map(|i| (((i * 7919) >> 3) & 15) as u8).collect();
    let base =
        PackedMatrix::from_codes((n, k), 4, 16, &codes, vec![f16::from_f32(0.02); n * k / 16], None).unwrap();
    // Rows of no, one, two ... entries, more than a vector of them.
    let count = |row: usize| row % 23;
    let starts = (0..=n).map(|row| (0..row).map(count).sum::<usize>() as u32).collect();
    let columns: Vec<u16> =
        (0..n).flat_map(|row| (0..count(row)).map(move |e| (e * 7 + row % 20) as u16)).collect();
    let values = noise(columns.len(), 3).iter().map(|&v| f16::from_f32(v)).collect();
    let ortho = SparseRows::new((n, k), starts, columns, values).unwrap();
    let sieved = SievedRows { base: &base, ortho: &ortho, alpha: 0.7 };
    let x = noise(m * k, 8);
    // Up to 176 products below 0.1 and 22 below 0.4, each and each sum within 2^-24 of the largest
    // partial sum, which stays below 16.
    const NEAR: f32 = 1e-4;
    for (precision, isa) in [Precision::F32, Precision::Bf16]
        .into_iter()
        .flat_map(|p| Isa::available().into_iter().map(move |i| (p, i)))
    {
        let mut expected = vec![0.0; m * n];
        scalar::linear(&x, &base, precision, &mut expected);
        crate::sparse::scalar::add(&x, &ortho, 0.7, &mut expected);
        let mut all = vec![0.0; m * n];
        linear(&Cpu::new(isa, 2), &x, &sieved, precision, &mut all);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < NEAR;
        assert!(all.iter().zip(&expected).all(near), "{} {precision:?}", isa.name());
        if precision == Precision::F32 {
            // The definition by decoded rows.
            scalar::linear(&x, &sieved, precision, &mut expected);
            assert!(all.iter().zip(&expected).all(near), "{}", isa.name());
        }
        for (threads, rows) in [(1, 1), (2, 1), (3, 16), (2, 17), (1, 20)] {
            let cpu = Cpu::new(isa, threads);
            for (x, expected) in x.chunks(rows * k).zip(all.chunks(rows * n)) {
                let mut y = vec![0.0; expected.len()];
                linear(&cpu, x, &sieved, precision, &mut y);
                assert!(y.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} {rows}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "no rows")]
fn a_partial_row_is_refused() {
    let w = DenseF32::new(1, 4, vec![0.0; 4]).unwrap();
    linear(&Cpu::new(Isa::SCALAR, 1), &[0.0; 5], &w, Precision::F32, &mut [0.0]);
}
