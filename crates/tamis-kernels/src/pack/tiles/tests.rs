//! Kernel order holds the very weights of the interchange layouts.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::pack::{GgmlMatrix, GgmlType, PackedMatrix};
use crate::pool::Pool;

fn same_rows(tiles: &TileMatrix, source: &dyn RowSource) {
    let (mut got, mut want) = (vec![0.0; source.cols()], vec![0.0; source.cols()]);
    assert_eq!((tiles.rows(), tiles.cols()), (source.rows(), source.cols()));
    for row in 0..source.rows() {
        tiles.decode_row(row, &mut got);
        source.decode_row(row, &mut want);
        assert_eq!(got, want, "row {row} of {tiles:?}");
    }
}

proptest! {
    #[test]
    fn packed_rows_decode_to_the_same_weights(
        rows in 1usize..40, cols in 1usize..200, bits in prop::sample::select(vec![2u32, 3, 4, 8]),
        group in prop::sample::select(vec![32usize, 64, 96, 128, 200]), asymmetric: bool, seed: u8,
    ) {
        let group = group.min(cols);
        let code = |i: usize| ((i * 31 + i / 7 + usize::from(seed)) % (1 << bits)) as u8;
        let codes: Vec<u8> = (0..rows * cols).map(code).collect();
        let groups = rows * cols.div_ceil(group);
        let scales = (0..groups).map(|i| f16::from_f32(0.01 * (i + 1) as f32)).collect();
        let zeros = asymmetric.then(|| (0..groups).map(code).collect());
        let packed = PackedMatrix::from_codes((rows, cols), bits, group, &codes, scales, zeros).unwrap();
        same_rows(&TileMatrix::from_packed(&Pool::new(2), &packed).unwrap(), &packed);
    }
}

#[test]
fn ggml_blocks_decode_to_the_same_weights() {
    use GgmlType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] {
        let mut data: Vec<u8> =
            (0..kind.bytes_of(19 * 96).unwrap()).map(|i| (i * 37 + i / 11) as u8).collect();
        for block in data.chunks_exact_mut(kind.block_bytes()) {
            (block[1], block[3]) = (block[1] & 0x3b, block[3] & 0x3b);
        }
        let source = GgmlMatrix::new(kind, 19, 96, data).unwrap();
        same_rows(&TileMatrix::from_ggml(&Pool::new(2), &source).unwrap(), &source);
    }
}

#[test]
fn what_cannot_be_cut_into_blocks_is_refused() {
    let ragged = PackedMatrix::from_codes((1, 96), 4, 48, &[1; 96], vec![f16::ONE; 2], None).unwrap();
    assert!(TileMatrix::from_packed(&Pool::new(1), &ragged).is_none());
    let k_type = GgmlMatrix::new(GgmlType::Q4K, 1, 256, vec![0; 144]).unwrap();
    assert!(TileMatrix::from_ggml(&Pool::new(1), &k_type).is_none());
}
