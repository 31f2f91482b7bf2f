//! Blocks: what they decode to, how many bits they take, and parts that are refused.

use proptest::prelude::*;

use super::*;
use crate::linear::noise;

/// Marks about that share of so many, by a fixed rule.
fn marks(len: usize, share: f32, seed: u32) -> Vec<bool> {
    noise(len, seed).iter().map(|v| v + 0.5 < share).collect()
}

fn blocks_of((rows, cols): (usize, usize)) -> usize {
    rows.div_ceil(BLOCK_SIDE) * cols.div_ceil(BLOCK_SIDE)
}

fn decoded(w: &BlockMatrix) -> Vec<f32> {
    let mut out = vec![9.0; w.rows() * w.cols()];
    out.chunks_exact_mut(w.cols()).enumerate().for_each(|(row, out)| w.decode_row(row, out));
    out
}

/// Weight by weight: those of kept blocks, through `round`, and zeros.
fn masked(shape: (usize, usize), weights: &[f32], kept: &[bool], round: impl Fn(f32) -> f32) -> Vec<f32> {
    let across = shape.1.div_ceil(BLOCK_SIDE);
    let kept = |i: usize| kept[i / shape.1 / BLOCK_SIDE * across + i % shape.1 / BLOCK_SIDE];
    weights.iter().enumerate().map(|(i, &w)| if kept(i) { round(w) } else { 0.0 }).collect()
}

fn check(shape: (usize, usize), share: f32) {
    let weights = noise(shape.0 * shape.1, 5);
    let kept = marks(blocks_of(shape), share, 6);
    let bf16s = BlockMatrix::from_dense(shape, &weights, &kept, BlockKind::Bf16).unwrap();
    let expected = masked(shape, &weights, &kept, |w| bf16::from_f32(w).to_f32());
    assert_eq!(decoded(&bf16s), expected);
    let exact = masked(shape, &weights, &kept, |w| w);
    let ones = masked(shape, &vec![1.0; weights.len()], &kept, |w| w);
    let density = ones.iter().sum::<f32>() as f64 / weights.len().max(1) as f64;
    assert!((bf16s.density() - density).abs() < 1e-6, "{shape:?}");
    for (kind, most) in [(BlockKind::Int8, 127.0), (BlockKind::Int4, 7.0)] {
        let w = BlockMatrix::from_dense(shape, &weights, &kept, kind).unwrap();
        // Weights are below 1/2, so half a step of the grid is at most this, and its f16 scale is
        // off by 2^-11 of `most` steps besides.
        let near = 0.5 / most * 0.5 + 0.5 / 2048.0;
        for (a, b) in decoded(&w).iter().zip(&exact) {
            assert!((a - b).abs() <= near && (*b != 0.0 || *a == 0.0), "{kind:?}: {a} {b}");
        }
        let again = w.data().clone();
        let again = BlockMatrix::from_parts(shape, w.starts().to_vec(), w.columns().to_vec(), again).unwrap();
        assert_eq!(again, w);
        // What is on the grid stays there.
        let same = BlockMatrix::from_dense(shape, &decoded(&w), &kept, kind).unwrap();
        for (a, b) in decoded(&same).iter().zip(decoded(&w)) {
            assert!((a - b).abs() <= 0.5 / 2048.0, "{kind:?}: {a} {b}");
        }
    }
}

#[test]
fn kept_blocks_decode_to_the_masked_weights() {
    for shape in [(1, 1), (16, 16), (17, 15), (15, 33), (48, 64), (50, 100), (0, 5)] {
        for share in [0.0, 0.3, 0.5, 2.0] {
            check(shape, share);
        }
    }
}

#[test]
fn bytes_are_those_of_the_parts() {
    let shape = (32, 48);
    let weights = noise(32 * 48, 1);
    let kept = [true, false, true, false, false, true];
    let bytes = |kind| BlockMatrix::from_dense(shape, &weights, &kept, kind).unwrap().bytes();
    let index = 3 * 4 + 3 * 2;
    assert_eq!(bytes(BlockKind::Bf16), index + 3 * 512);
    assert_eq!(bytes(BlockKind::Int8), index + 3 * (256 + 32));
    assert_eq!(bytes(BlockKind::Int4), index + 3 * (128 + 32));
    let w = BlockMatrix::from_dense(shape, &weights, &kept, BlockKind::Bf16).unwrap();
    assert_eq!((w.starts(), w.columns(), w.strips()), (&[0, 2, 3][..], &[0, 2, 2][..], 2));
}

#[test]
fn a_kept_block_may_hold_zeros() {
    let w = BlockMatrix::from_dense((16, 16), &[0.0; 256], &[true], BlockKind::Int4).unwrap();
    assert_eq!((w.density(), w.columns().len()), (1.0, 1));
    assert_eq!(decoded(&w), vec![0.0; 256]);
}

/// The order inside a block, as kernels and files rely on it.
#[test]
fn weights_stand_in_the_order_of_the_kernels() {
    let weights: Vec<f32> = (0..256).map(|i| (i % 16) as f32 - 7.0 + (i / 16 % 2) as f32).collect();
    let of = |kind| BlockMatrix::from_dense((16, 16), &weights, &[true], kind).unwrap();
    let BlockData::Bf16(values) = of(BlockKind::Bf16).data else { panic!("not bf16") };
    for (row, k) in [(0, 0), (3, 1), (15, 14), (7, 9)] {
        assert_eq!(values[k / 2 * 32 + row * 2 + k % 2].to_f32(), weights[row * 16 + k]);
    }
    for (kind, bits) in [(BlockKind::Int4, 4), (BlockKind::Int8, 8)] {
        let BlockData::Integers { words, scales, .. } = of(kind).data else { panic!("not integers") };
        for (row, k) in [(0, 0), (3, 1), (15, 14), (7, 9)] {
            let per_word = 32 / bits;
            let code = words[k / per_word * 16 + row] << (32 - bits * (k % per_word + 1));
            let w = (code as i32 >> (32 - bits)) as f32 * scales[row].to_f32();
            let most = ((1 << (bits - 1)) - 1) as f32;
            assert!((w - weights[row * 16 + k]).abs() <= 9.0 / most * 0.501, "{row} {k}");
        }
    }
}

#[test]
fn wrong_parts_are_refused() {
    let values = |blocks: usize| BlockData::Bf16(vec![bf16::ONE; blocks * 256]);
    let parts = |shape, starts: &[u32], columns: &[u16], data| {
        BlockMatrix::from_parts(shape, starts.to_vec(), columns.to_vec(), data).map(|_| ())
    };
    let shape = (32, 48);
    assert_eq!(parts(shape, &[0, 2, 3], &[0, 2, 2], values(3)), Ok(()));
    let refused = |message: &str, result: Result<(), PackError>| {
        let error = result.unwrap_err().0;
        assert!(error.contains(message), "{error}");
    };
    refused("starts for 2 strips", parts(shape, &[0, 3], &[0, 1, 2], values(3)));
    refused("starts for 2 strips", parts(shape, &[1, 2, 3], &[0, 2, 2], values(3)));
    refused("starts for 2 strips", parts(shape, &[], &[], values(0)));
    refused("ascend to the number", parts(shape, &[0, 3, 2], &[0, 2, 2], values(3)));
    refused("ascend to the number", parts(shape, &[0, 2, 4], &[0, 2, 2], values(3)));
    refused("ascend to the number", parts(shape, &[0, 2, u32::MAX], &[0, 2, 2], values(3)));
    refused("lie in the matrix", parts(shape, &[0, 2, 3], &[0, 3, 2], values(3)));
    refused("lie in the matrix", parts(shape, &[0, 2, 3], &[2, 0, 2], values(3)));
    refused("lie in the matrix", parts(shape, &[0, 2, 3], &[1, 1, 2], values(3)));
    refused("of 3 blocks", parts(shape, &[0, 2, 3], &[0, 2, 2], values(4)));
    refused("without columns", parts((16, 0), &[0, 0], &[], values(0)));
    refused("blocks of 16 reach", parts((16, (16 << 16) + 1), &[0, 0], &[], values(0)));
    refused("starts for", parts((usize::MAX, 16), &[0, 1], &[0], values(1)));
    refused("behind the matrix", parts((15, 16), &[0, 1], &[0], values(1)));
    refused("behind the matrix", parts((16, 15), &[0, 1], &[0], values(1)));
    let integers = |bits, words, scale| BlockData::Integers {
        bits,
        words: vec![0x1111_1111; words],
        scales: vec![scale; 16],
    };
    let one = |data| parts((16, 16), &[0, 1], &[0], data);
    assert_eq!(one(integers(4, 32, f16::ONE)), Ok(()));
    refused("4 or 8", one(integers(3, 24, f16::ONE)));
    refused("4 or 8", one(integers(0, 0, f16::ONE)));
    refused("of 1 blocks", one(integers(8, 32, f16::ONE)));
    refused("not finite", one(integers(4, 32, f16::INFINITY)));
    refused("not finite", one(integers(4, 32, f16::NAN)));
    refused("behind the matrix", parts((16, 9), &[0, 1], &[0], integers(8, 64, f16::ONE)));
}

#[test]
fn wrong_weights_are_refused() {
    let dense = |shape, weights: &[f32], kept: &[bool], kind| {
        BlockMatrix::from_dense(shape, weights, kept, kind).unwrap_err().0
    };
    assert!(dense((2, 3), &[0.0; 5], &[true], BlockKind::Bf16).contains("5 weights"));
    assert!(dense((2, 3), &[0.0; 6], &[], BlockKind::Bf16).contains("0 blocks"));
    assert!(dense((usize::MAX, 3), &[], &[], BlockKind::Bf16).contains("0 weights"));
    for weight in [f32::NAN, f32::INFINITY, 1e9] {
        assert!(dense((1, 1), &[weight], &[true], BlockKind::Int8).contains("no grid"));
    }
}

proptest! {
    #[test]
    fn any_blocks_round_trip(
        shape in (1usize..70, 1usize..70),
        share in 0.0f32..1.1,
    ) {
        check(shape, share);
    }
}
