//! Packing and decoding: round trips, equal bits on every instruction set, refusals.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::isa::Isa;

fn matrix(rows: usize, cols: usize, bits: u32, group: usize, asymmetric: bool) -> (Vec<u8>, PackedMatrix) {
    let mask = (1u32 << bits) - 1;
    let random = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 13 & mask) as u8;
    let codes: Vec<u8> = (0..rows * cols).map(random).collect();
    let groups = rows * cols.div_ceil(group);
    let scales = (0..groups).map(|g| f16::from_f32(0.003 * (g % 17) as f32 - 0.011)).collect();
    let zeros = asymmetric.then(|| (0..groups).map(|g| random(g + 77)).collect());
    let packed = PackedMatrix::from_codes((rows, cols), bits, group, &codes, scales, zeros).unwrap();
    (codes, packed)
}

/// The definition, weight by weight.
fn definition(m: &PackedMatrix, row: usize, col: usize) -> f32 {
    let g = row * m.groups() + col / m.group();
    let zero = m.zeros().map_or(1 << (m.bits() - 1), |z| i32::from(z[g]));
    m.scales()[g].to_f32() * (i32::from(m.code(row, col)) - zero) as f32
}

fn check_decode(m: &PackedMatrix) {
    for isa in Isa::available() {
        for row in 0..m.rows() {
            let mut out = vec![9.0; m.cols()];
            m.decode_row_on(isa, row, &mut out);
            for (col, w) in out.iter().enumerate() {
                let expected = definition(m, row, col);
                assert_eq!(w.to_bits(), expected.to_bits(), "{} {row} {col}", isa.name());
            }
        }
    }
}

#[test]
fn every_isa_decodes_the_same_bits_at_awkward_sizes() {
    for bits in [2, 3, 4, 8] {
        for cols in [1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 96, 129, 172, 576] {
            for group in [1, 5, 8, 24, 32, 64, 128, cols] {
                for asymmetric in [false, true] {
                    if group <= cols {
                        check_decode(&matrix(3, cols, bits, group, asymmetric).1);
                    }
                }
            }
        }
    }
}

#[test]
fn half_rows_decode_exactly() {
    let x: Vec<f32> = (0..37 * 2).map(|i| (i as f32 - 30.0) * 0.37).collect();
    let f16s: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
    let bf16s: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
    let expected: [Vec<f32>; 2] =
        [f16s.iter().map(|v| v.to_f32()).collect(), bf16s.iter().map(|v| v.to_f32()).collect()];
    for (data, expected) in [HalfData::F16(f16s), HalfData::Bf16(bf16s)].into_iter().zip(expected) {
        let m = DenseHalf::new(2, 37, data).unwrap();
        let mut row = vec![0.0; 37];
        m.decode_row(1, &mut row);
        assert_eq!(row, expected[37..]);
    }
}

#[test]
fn wrong_lengths_are_refused() {
    assert!(DenseF32::new(2, 3, vec![0.0; 5]).is_err());
    assert!(DenseF32::new(usize::MAX, 3, vec![]).is_err());
    assert!(DenseF32::new(0, 0, vec![]).is_err());
    assert!(DenseHalf::new(1, 2, HalfData::F16(vec![f16::ONE])).is_err());
    assert!(F32Rows::new(0, &[]).is_err() && F32Rows::new(2, &[0.0; 3]).is_err());
    let scale = || vec![f16::ONE];
    let new = |bits, group, words, scales, zeros| {
        PackedMatrix::from_words((1, 16), bits, group, words, scales, zeros)
    };
    assert!(new(4, 16, vec![0; 2], scale(), None).is_ok());
    assert!(new(5, 16, vec![0; 3], scale(), None).is_err(), "bits");
    assert!(new(4, 0, vec![0; 2], scale(), None).is_err(), "no group");
    assert!(new(4, 17, vec![0; 2], scale(), None).is_err(), "wide group");
    assert!(new(4, 16, vec![0; 1], scale(), None).is_err(), "words");
    assert!(new(4, 8, vec![0; 2], scale(), None).is_err(), "scales");
    assert!(new(4, 16, vec![0; 2], scale(), Some(vec![16])).is_err(), "zero point");
    assert!(new(4, 16, vec![0; 2], scale(), Some(vec![])).is_err(), "zeros");
    assert!(PackedMatrix::from_codes((1, 2), 2, 2, &[4, 0], scale(), None).is_err(), "code");
}

#[test]
fn bad_sparse_rows_are_refused() {
    let one = || vec![f16::ONE];
    assert!(SparseRows::new((1, 4), vec![0, 1], vec![3], one()).is_ok());
    assert!(SparseRows::new((1, 4), vec![0, 1], vec![4], one()).is_err(), "column");
    assert!(SparseRows::new((1, 4), vec![0], vec![], vec![]).is_err(), "starts");
    assert!(SparseRows::new((2, 4), vec![0, 1, 0], vec![3], one()).is_err(), "descending starts");
    assert!(SparseRows::new((1, 4), vec![0, 2], vec![2, 2], vec![f16::ONE; 2]).is_err(), "twice");
    assert!(SparseRows::new((1, 70_000), vec![0, 0], vec![], vec![]).is_err(), "too wide");
    assert!(SparseRows::new((1, 0), vec![0, 0], vec![], vec![]).is_err(), "no column");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn codes_survive_packing(
        bits in prop::sample::select(vec![2u32, 3, 4, 8]),
        rows in 1usize..4,
        cols in 1usize..200,
        seed in any::<u64>(),
        group in 1usize..200,
    ) {
        let group = group.min(cols);
        let code = |i: usize| ((seed.wrapping_mul(i as u64 + 1) >> 21) & ((1 << bits) - 1)) as u8;
        let codes: Vec<u8> = (0..rows * cols).map(code).collect();
        let scales = vec![f16::from_f32(0.5); rows * cols.div_ceil(group)];
        let packed = PackedMatrix::from_codes((rows, cols), bits, group, &codes, scales.clone(), None).unwrap();
        for (i, &c) in codes.iter().enumerate() {
            prop_assert_eq!(packed.code(i / cols, i % cols), c);
        }
        let words = packed.words().to_vec();
        let again = PackedMatrix::from_words((rows, cols), bits, group, words, scales, None).unwrap();
        prop_assert_eq!(&again, &packed);
        check_decode(&packed);
    }

    #[test]
    fn sparse_rows_add_what_they_hold(
        dense in prop::collection::vec(prop::option::weighted(0.2, -8i8..8), 60),
        alpha in -2.0f32..2.0,
    ) {
        let (rows, cols) = (4, 15);
        let (mut starts, mut columns, mut values) = (vec![0], vec![], vec![]);
        for row in dense.chunks(cols) {
            for (c, v) in row.iter().enumerate().filter_map(|(c, v)| v.map(|v| (c, v))) {
                columns.push(c as u16);
                values.push(f16::from_f32(f32::from(v)));
            }
            starts.push(columns.len() as u32);
        }
        let sparse = SparseRows::new((rows, cols), starts, columns, values).unwrap();
        for (r, expected) in dense.chunks(cols).enumerate() {
            let mut out = vec![1.0; cols];
            sparse.add_row(r, alpha, &mut out);
            for (out, v) in out.iter().zip(expected) {
                prop_assert_eq!(*out, 1.0 + alpha * f32::from(v.unwrap_or(0)));
            }
        }
    }
}
