//! Bitmaps: what they decode to on every instruction set, and parts that are refused.

use proptest::prelude::*;

use super::*;
use crate::linear::noise;

fn marks(len: usize, share: f32, seed: u32) -> Vec<bool> {
    noise(len, seed).iter().map(|v| v + 0.5 < share).collect()
}

fn decoded(w: &BitmapMatrix, isa: Isa) -> Vec<f32> {
    let mut out = vec![9.0; w.rows() * w.cols()];
    out.chunks_exact_mut(w.cols()).enumerate().for_each(|(row, out)| w.decode_row_on(isa, row, out));
    out
}

fn check(shape: (usize, usize), kept: &[bool], group: usize) {
    let weights = noise(shape.0 * shape.1, 5);
    let masked: Vec<f32> = weights.iter().zip(kept).map(|(w, k)| if *k { *w } else { 0.0 }).collect();
    let bf16s = BitmapMatrix::from_dense(shape, &weights, kept, BitmapKind::Bf16).unwrap();
    let int8s = BitmapMatrix::from_dense(shape, &weights, kept, BitmapKind::Int8 { group }).unwrap();
    let int4s = BitmapMatrix::from_dense(shape, &weights, kept, BitmapKind::Int4 { group }).unwrap();
    let count = kept.iter().filter(|k| **k).count();
    assert_eq!(bf16s.density(), count as f64 / kept.len() as f64);
    let rounded: Vec<bf16> = masked.iter().map(|w| bf16::from_f32(*w)).collect();
    let plain = decoded(&int8s, Isa::SCALAR);
    let plain4 = decoded(&int4s, Isa::SCALAR);
    for isa in Isa::available() {
        assert!(decoded(&bf16s, isa).iter().zip(&rounded).all(|(a, b)| *a == b.to_f32()), "{}", isa.name());
        for (row, expected) in rounded.chunks_exact(shape.1).enumerate() {
            let mut out = vec![bf16::MAX; shape.1];
            assert!(bf16s.decode_bf16(isa, row, &mut out));
            assert_eq!(out, expected, "{}", isa.name());
        }
        assert_eq!(decoded(&int8s, isa), plain, "{}", isa.name());
        assert_eq!(decoded(&int4s, isa), plain4, "{}", isa.name());
    }
    for (a, b) in plain.iter().zip(&masked) {
        // Half a step of a grid that reaches 1/2, and 127 steps that are off by 2^-12 each.
        assert!((a - b).abs() <= 0.25 / 127.0 + 0.5 / 2048.0 && (*b != 0.0 || *a == 0.0), "{a} {b}");
    }
    let squares = |a: &[f32]| a.iter().zip(&masked).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    // The grid that reaches 1/2 is half a step off at most, and the one that is taken is no worse in all.
    assert!(squares(&plain4) <= count as f64 * f64::from(0.25f32 / 7.0 + 0.5 / 2048.0).powi(2));
    assert!(plain4.iter().zip(kept).all(|(a, kept)| *kept || *a == 0.0));
    let again = BitmapMatrix::from_dense(shape, &plain4, kept, BitmapKind::Int4 { group }).unwrap();
    assert_eq!(decoded(&again, Isa::SCALAR), plain4, "weights on the grid stay");
    for w in [bf16s, int8s, int4s] {
        let parts = (w.bits().to_vec(), w.starts().to_vec(), w.data().clone());
        assert_eq!(BitmapMatrix::from_parts(shape, parts.0, parts.1, parts.2).unwrap(), w);
    }
}

#[test]
fn kept_weights_decode_to_the_masked_ones() {
    for (rows, cols, group) in [(1, 1, 1), (3, 31, 31), (3, 32, 32), (4, 33, 32), (5, 100, 64), (2, 200, 200)]
    {
        for share in [0.0, 0.1, 0.5, 0.9, 2.0] {
            check((rows, cols), &marks(rows * cols, share, 8), group);
        }
    }
}

#[test]
fn two_of_four_and_four_of_eight_are_bitmaps_like_others() {
    let (rows, cols) = (7, 96);
    for (n, m) in [(2, 4), (4, 8)] {
        let kept: Vec<bool> = (0..rows * cols).map(|i| (i * 5 + i / cols) % m < n).collect();
        check((rows, cols), &kept, 32);
        let w =
            BitmapMatrix::from_dense((rows, cols), &noise(rows * cols, 1), &kept, BitmapKind::Bf16).unwrap();
        assert_eq!((w.density(), w.bytes()), (0.5, rows * cols + rows * 12 + (rows + 1) * 4));
    }
}

/// Every code at every place of a byte, and rows that begin in the middle of one.
#[test]
fn codes_of_4_bits_are_read_with_their_sign() {
    let (rows, cols) = (16, 33);
    let weights: Vec<f32> = (0..rows * cols).map(|i| ((i * 7 + i / cols) % 15) as f32 - 7.0).collect();
    for share in [0.4, 2.0] {
        let chosen = marks(rows * cols, share, 3);
        // Where an end of the grid is kept, the scale is one.
        let kept: Vec<bool> = chosen.iter().zip(&weights).map(|(kept, w)| *kept || w.abs() == 7.0).collect();
        let w = BitmapMatrix::from_dense((rows, cols), &weights, &kept, BitmapKind::Int4 { group: cols })
            .unwrap();
        let expected: Vec<f32> =
            weights.iter().zip(&kept).map(|(w, kept)| if *kept { *w } else { 0.0 }).collect();
        for isa in Isa::available() {
            assert_eq!(decoded(&w, isa), expected, "{}", isa.name());
        }
    }
}

#[test]
fn a_grid_of_4_bits_gives_up_its_largest_weight_for_many_small_ones() {
    let weights: Vec<f32> = (0..64).map(|i| if i == 9 { 1.0 } else { 0.11 }).collect();
    let w = BitmapMatrix::from_dense((1, 64), &weights, &[true; 64], BitmapKind::Int4 { group: 64 }).unwrap();
    let BitmapData::Int4 { scales, .. } = w.data() else { panic!("4 bits were asked for") };
    assert!(scales[0].to_f32() < 0.9 / 7.0, "{}", scales[0]);
}

#[test]
fn wrong_parts_are_refused() {
    let shape = (2, 40);
    let values = |count| BitmapData::Bf16(vec![bf16::ONE; count]);
    let parts = |shape, bits: &[u32], starts: &[u32], data| {
        BitmapMatrix::from_parts(shape, bits.to_vec(), starts.to_vec(), data).map(|_| ())
    };
    let bits = [7, 0x81, 0, 1];
    assert_eq!(parts(shape, &bits, &[0, 5, 6], values(6)), Ok(()));
    let refused = |message: &str, result: Result<(), PackError>| {
        let error = result.unwrap_err().0;
        assert!(error.contains(message), "{error}");
    };
    refused("words of bits", parts(shape, &bits[..3], &[0, 5, 6], values(6)));
    refused("words of bits", parts((2, 0), &[], &[0, 0, 0], values(0)));
    refused("words of bits", parts((usize::MAX, 40), &bits, &[0, 5, 6], values(6)));
    refused("row starts", parts(shape, &bits, &[0, 6], values(6)));
    refused("row starts", parts(shape, &bits, &[1, 5, 6], values(6)));
    refused("row 0 keeps 5", parts(shape, &bits, &[0, 6, 5], values(6)));
    refused("row 1 keeps 1", parts(shape, &bits, &[0, 5, u32::MAX], values(6)));
    refused("row 1 keeps 1", parts(shape, &bits, &[0, 5, 5], values(5)));
    refused("behind its 40 columns", parts(shape, &[7, 0x101, 0, 1], &[0, 5, 6], values(6)));
    refused("5 values for 6", parts(shape, &bits, &[0, 5, 6], values(5)));
    refused("7 values for 6", parts(shape, &bits, &[0, 5, 6], values(7)));
    let int8 = |codes, scales, scale, group| BitmapData::Int8 {
        codes: vec![1; codes],
        scales: vec![scale; scales],
        group,
    };
    let with = |data| parts(shape, &bits, &[0, 5, 6], data);
    assert_eq!(with(int8(6, 4, f16::ONE, 32)), Ok(()));
    assert_eq!(with(int8(6, 2, f16::ONE, 40)), Ok(()));
    refused("multiple of 32", with(int8(6, 4, f16::ONE, 20)));
    refused("multiple of 32", with(int8(6, 4, f16::ONE, 0)));
    refused("multiple of 32", with(int8(6, 2, f16::ONE, 64)));
    refused("3 scales", with(int8(6, 3, f16::ONE, 32)));
    refused("not finite", with(int8(6, 4, f16::NAN, 32)));
    refused("5 values for 6", with(int8(5, 4, f16::ONE, 32)));
    let int4 = |words: &[u32], scale, group| BitmapData::Int4 {
        words: words.to_vec(),
        scales: vec![scale; 4],
        group,
    };
    assert_eq!(with(int4(&[0xff_ffff], f16::ONE, 32)), Ok(()));
    refused("behind the last kept", with(int4(&[0x100_0000], f16::ONE, 32)));
    refused("2 words of codes", with(int4(&[0, 0], f16::ONE, 32)));
    refused("0 words of codes", with(int4(&[], f16::ONE, 32)));
    refused("4 scales", with(int4(&[0], f16::ONE, 40)));
    refused("multiple of 32", with(int4(&[0], f16::ONE, 20)));
    refused("not finite", with(int4(&[0], f16::INFINITY, 32)));
}

#[test]
fn wrong_weights_are_refused() {
    let dense = |shape, weights: &[f32], kept: &[bool], kind| {
        BitmapMatrix::from_dense(shape, weights, kept, kind).unwrap_err().0
    };
    let int8 = |group| BitmapKind::Int8 { group };
    assert!(dense((1, 2), &[0.0; 3], &[true; 3], BitmapKind::Bf16).contains("3 weights"));
    assert!(dense((1, 2), &[0.0; 2], &[true; 3], BitmapKind::Bf16).contains("3 of them"));
    assert!(dense((1, 64), &[0.0; 64], &[true; 64], int8(0)).contains("multiple of 32"));
    assert!(dense((1, 0), &[], &[], int8(32)).contains("multiple of 32"));
    assert!(dense((1, 0), &[], &[], BitmapKind::Bf16).contains("words of bits"));
    for weight in [f32::NAN, f32::INFINITY, 1e9] {
        assert!(dense((1, 1), &[weight], &[true], int8(1)).contains("no grid"));
    }
}

proptest! {
    #[test]
    fn any_weights_round_trip(rows in 1usize..6, cols in 1usize..150, share in 0.0f32..1.1, seed in 1u32..1000) {
        check((rows, cols), &marks(rows * cols, share, seed), if cols < 64 { cols } else { 64 });
    }
}
