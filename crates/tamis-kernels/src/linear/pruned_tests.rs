//! Products with pruned weights on every instruction set: near the reference, and their bits
//! against themselves for other numbers of rows and of threads.

use half::bf16;

use super::*;
use crate::isa::Isa;
use crate::pack::{
    BLOCK_SIDE, BitmapKind, BitmapMatrix, BlockKind, BlockMatrix, DenseHalf, HalfData, SparseRows,
};

/// Each of up to 1700 products is below 1/4, and each sum of them within 2^-24 of the largest
/// partial sum, which grows like the root of their number. Where bf16 pairs are multiplied in
/// hardware, numbers below 2^-126 are zero.
const TOLERANCE: f64 = 1e-5;

fn marks(len: usize, share: f32) -> Vec<bool> {
    noise(len, 21).iter().map(|v| v + 0.5 < share).collect()
}

/// All kinds of blocks; those of the second strip are all left out.
fn blocks(n: usize, k: usize, share: f32) -> Vec<BlockMatrix> {
    let across = k.div_ceil(BLOCK_SIDE);
    let mut kept = marks(n.div_ceil(BLOCK_SIDE) * across, share);
    if share < 1.0 {
        kept.iter_mut().skip(across).take(across).for_each(|kept| *kept = false);
    }
    let weights = noise(n * k, 22);
    let kinds = [BlockKind::Bf16, BlockKind::Int8, BlockKind::Int4];
    kinds.map(|kind| BlockMatrix::from_dense((n, k), &weights, &kept, kind).unwrap()).into()
}

fn bitmaps(n: usize, k: usize) -> Vec<BitmapMatrix> {
    let group = if k < 64 { k } else { 64 };
    let (weights, kept) = (noise(n * k, 22), marks(n * k, 0.5));
    let kinds = [BitmapKind::Bf16, BitmapKind::Int8 { group }, BitmapKind::Int4 { group }];
    kinds.map(|kind| BitmapMatrix::from_dense((n, k), &weights, &kept, kind).unwrap()).into()
}

/// The product on every instruction set near the plain one; then each row alone, and all rows on
/// other threads, to the same bits.
fn check(w: &dyn RowSource, m: usize) {
    let (n, k) = (w.rows(), w.cols());
    let x = noise(m * k, 23);
    for precision in [Precision::F32, Precision::Bf16] {
        let mut expected = vec![0.0; m * n];
        scalar::linear(&x, w, precision, &mut expected);
        for isa in Isa::available() {
            let mut y = vec![9.0; m * n];
            linear(&Cpu::new(isa, 2), &x, w, precision, &mut y);
            for (a, b) in y.iter().zip(&expected) {
                let near = (f64::from(*a) - f64::from(*b)).abs() <= TOLERANCE * (k as f64).sqrt();
                assert!(near, "{} {precision:?} {m}x{k}x{n}: {a} {b}", isa.name());
            }
            for (threads, rows) in [(1, 1), (2, 3), (3, m), (1, 9)] {
                let cpu = Cpu::new(isa, threads);
                for (x, expected) in x.chunks(rows * k).zip(y.chunks(rows * n)) {
                    let mut y = vec![9.0; expected.len()];
                    linear(&cpu, x, w, precision, &mut y);
                    let same = y.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} {precision:?} {m}x{k}x{n}: {rows} rows, {threads}", isa.name());
                }
            }
        }
    }
}

#[test]
fn blocks_agree_with_the_reference_at_awkward_sizes() {
    for (n, k) in [(1, 1), (15, 17), (16, 16), (33, 31), (40, 176), (97, 100)] {
        for share in [0.0, 0.5, 2.0] {
            for w in blocks(n, k, share) {
                check(&w, 27);
            }
        }
    }
}

#[test]
fn tiles_of_any_number_of_rows_give_the_same_bits() {
    for m in [1, 2, 5, 6, 7, 8, 9, 15, 24, 25, 31, 56] {
        for w in blocks(50, 90, 0.6) {
            check(&w, m);
        }
    }
}

/// More columns than the sums of a tile are kept for.
#[test]
fn wide_blocks_agree_with_the_reference() {
    for w in blocks(40, 4500, 0.4) {
        check(&w, 26);
    }
}

#[test]
fn left_out_blocks_are_not_multiplied() {
    let kept = [true, false];
    let w = BlockMatrix::from_dense((16, 32), &noise(512, 1), &kept, BlockKind::Bf16).unwrap();
    let mut x = noise(32, 2);
    let cpu = Cpu::new(Isa::detect(), 1);
    let (mut a, mut b) = (vec![0.0; 16], vec![0.0; 16]);
    linear(&cpu, &x, &w, Precision::F32, &mut a);
    x[16..].fill(f32::NAN);
    linear(&cpu, &x, &w, Precision::F32, &mut b);
    assert_eq!(a, b);
}

#[test]
fn bitmaps_agree_with_the_reference_at_awkward_sizes() {
    for (n, k) in [(1, 1), (5, 31), (7, 32), (13, 33), (29, 176), (13, 1600)] {
        for w in bitmaps(n, k) {
            check(&w, 19);
        }
    }
}

/// Rows of 1536 values would crowd the cache sets, so many rows of x are multiplied with a copy.
#[test]
fn stored_bf16_rows_agree_with_the_reference() {
    for (n, k) in [(1, 1), (13, 33), (29, 176), (100, 1536)] {
        let values = noise(n * k, 22).iter().map(|&v| bf16::from_f32(v)).collect();
        check(&DenseHalf::new(n, k, HalfData::Bf16(values)).unwrap(), 19);
    }
}

#[test]
fn sparse_rows_agree_with_the_reference_at_awkward_sizes() {
    for (n, k) in [(1, 1), (5, 31), (13, 33), (29, 176), (13, 1600)] {
        for share in [0.0, 0.05, 0.4] {
            check(&SparseRows::from_dense((n, k), &noise(n * k, 22), &marks(n * k, share)).unwrap(), 19);
        }
    }
}

#[test]
fn sparse_rows_hold_what_they_were_made_of() {
    let (weights, kept) = (noise(29 * 176, 22), marks(29 * 176, 0.1));
    let w = SparseRows::from_dense((29, 176), &weights, &kept).unwrap();
    assert_eq!(w.entries(), kept.iter().filter(|kept| **kept).count());
    let mut row = vec![9.0; 176];
    for (at, (weights, kept)) in weights.chunks(176).zip(kept.chunks(176)).enumerate() {
        w.decode_row(at, &mut row);
        for ((decoded, w), kept) in row.iter().zip(weights).zip(kept) {
            assert_eq!(*decoded, if *kept { half::f16::from_f32(*w).to_f32() } else { 0.0 });
        }
    }
    assert!(SparseRows::from_dense((1, 2), &[1e6, 1.0], &[true, true]).is_err());
    assert!(SparseRows::from_dense((1, 2), &[1e6, 1.0], &[false, true]).is_ok());
    assert!(SparseRows::from_dense((1, 2), &[1.0], &[true]).is_err());
}
