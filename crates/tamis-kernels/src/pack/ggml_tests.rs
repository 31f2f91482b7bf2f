//! Golden blocks (`scripts/golden/ggml_blocks.py`) and the checks of the constructor.

use super::*;

const GOLDEN: &[u8] = include_bytes!("../../tests/golden/ggml_blocks.bin");
const BLOCKS: usize = 4;

#[test]
fn every_type_decodes_bit_exactly_as_ggml() {
    let mut rest = GOLDEN;
    for kind in GgmlType::ALL {
        let (blocks, tail) = rest.split_at(BLOCKS * kind.block_bytes());
        let cols = BLOCKS * kind.block_weights();
        let (values, tail) = tail.split_at(cols * 4);
        rest = tail;
        let matrix = GgmlMatrix::new(kind, 1, cols, blocks.to_vec()).unwrap();
        let mut out = vec![0.0; cols];
        matrix.decode_row(0, &mut out);
        for (i, (got, want)) in out.iter().zip(values.as_chunks::<4>().0).enumerate() {
            let want = u32::from_le_bytes(*want);
            assert_eq!(got.to_bits(), want, "{} weight {i}: {got} {}", kind.name(), f32::from_bits(want));
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn rows_are_found_by_their_blocks() {
    let blocks: Vec<u8> = GOLDEN[..4 * 18].to_vec();
    let matrix = GgmlMatrix::new(GgmlType::Q4_0, 2, 64, blocks.clone()).unwrap();
    let (mut row, mut all) = (vec![0.0; 64], vec![0.0; 128]);
    GgmlMatrix::new(GgmlType::Q4_0, 1, 128, blocks).unwrap().decode_row(0, &mut all);
    matrix.decode_row(1, &mut row);
    assert_eq!((matrix.rows(), matrix.cols(), &row[..]), (2, 64, &all[64..]));
}

#[test]
fn ragged_rows_and_wrong_lengths_are_refused() {
    for (rows, cols, bytes) in [(1, 31, 18), (1, 0, 0), (2, 32, 18), (usize::MAX, 64, 18), (1, 32, 19)] {
        assert!(GgmlMatrix::new(GgmlType::Q4_0, rows, cols, vec![0; bytes]).is_err(), "{rows}x{cols}");
    }
}

#[test]
fn a_non_finite_scale_is_found_where_it_stands() {
    for kind in GgmlType::ALL {
        for &field in kind.layout().floats {
            let mut blocks = vec![0; 3 * kind.block_bytes()];
            assert_eq!(kind.first_non_finite(&blocks), None);
            let at = 2 * kind.block_bytes() + field;
            blocks[at + 1] = 0x7c; // f16 infinity
            assert_eq!(kind.first_non_finite(&blocks), Some(at), "{}", kind.name());
        }
    }
}
