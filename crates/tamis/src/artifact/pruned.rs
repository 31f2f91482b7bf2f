//! Pruned matrices to the safetensors tensors that they are made of, and back. What is kept is told by
//! structure, never by values: a kept weight may be zero.
//!
//! | layout | where | what |
//! |---|---|---|
//! | bitmap | `weight_bitmap` u32 `[out, in / 32]`, `weight_starts` u32 `[out + 1]` | `weight_values` bf16, or `weight_codes` (i8 `[kept]`, or u32 `[kept / 8]` of 4 bits each) and `weight_scale` f16 `[out, in / group]` |
//! | blocks | `weight_starts` u32 `[out / 16 + 1]`, `weight_columns` u16 `[blocks]` | `weight_values` bf16 `[blocks, 8, 16, 2]`, or `weight_codes` u32 and `weight_scale` f16 `[blocks, 16]` |
//! | csr | `weight_starts` u32 `[out + 1]`, `weight_columns` u16 | `weight_values` f16 |
//!
//! Knows no file. The order of weights inside a block is that of `tamis_kernels::pack::BlockMatrix`.

use std::collections::BTreeMap;

use tamis_kernels::pack::{
    BITMAP_WORD, BLOCK_SIDE, BitmapData, BitmapMatrix, BlockData, BlockMatrix, PackError, SparseRows,
};

use super::codec::{from_bytes, to_bytes};
use super::container::{Dtype, Slot};
use super::entry::Encoding;
use crate::error::{Error, Result};
use crate::model::Weight;

/// The tensors of a pruned matrix. Errors: more kept weights than places, or than can be counted; a
/// width of codes that blocks do not have; a group longer than a row.
pub(super) fn slots(encoding: Encoding, (stem, (rows, cols)): (&str, (usize, usize))) -> Result<Vec<Slot>> {
    let slot = |suffix, dtype, shape: &[usize]| Slot::of(stem, suffix, dtype, shape);
    let strips = rows.div_ceil(BLOCK_SIDE);
    let (kept, places) = match encoding {
        Encoding::Blocks { blocks, .. } => (blocks, strips * cols.div_ceil(BLOCK_SIDE)),
        Encoding::Bitmap { kept, .. } | Encoding::Sparse { kept } => (kept, rows * cols),
        _ => return Err(Error::bad_data("a tensor of which nothing is left out")),
    };
    if kept > places || u32::try_from(kept).is_err() {
        return Err(Error::bad_data(format!("{kept} of {places} places are kept in a {rows}x{cols} matrix")));
    }
    let starts = |rows: usize| slot("weight_starts", Dtype::U32, &[rows + 1]);
    Ok(match encoding {
        Encoding::Bitmap { group, bits, .. } => {
            let bits = bits.map(|bits| bits.get());
            if !matches!((group, bits), (_, None) | (Some(_), Some(4))) {
                return Err(Error::bad_data(format!(
                    "a bitmap with codes of {bits:?} bits and groups of {group:?}"
                )));
            }
            let bitmap = slot("weight_bitmap", Dtype::U32, &[rows, cols.div_ceil(BITMAP_WORD)]);
            let mut slots = vec![bitmap, starts(rows)];
            match group {
                None => slots.push(slot("weight_values", Dtype::Bf16, &[kept])),
                Some(group) if group == 0 || group > cols => {
                    return Err(Error::bad_data(format!("a group of {group} in rows of {cols}")));
                }
                Some(group) => slots.extend([
                    match bits {
                        Some(_) => slot("weight_codes", Dtype::U32, &[kept.div_ceil(8)]),
                        None => slot("weight_codes", Dtype::I8, &[kept]),
                    },
                    slot("weight_scale", Dtype::F16, &[rows, cols.div_ceil(group)]),
                ]),
            }
            slots
        }
        Encoding::Blocks { bits, .. } => {
            let mut slots = vec![starts(strips), slot("weight_columns", Dtype::U16, &[kept])];
            match bits.map(|bits| bits.get() as usize) {
                None => slots.push(slot("weight_values", Dtype::Bf16, &[kept, 8, BLOCK_SIDE, 2])),
                Some(bits @ (4 | 8)) => slots.extend([
                    slot("weight_codes", Dtype::U32, &[kept, bits / 2, BLOCK_SIDE]),
                    slot("weight_scale", Dtype::F16, &[kept, BLOCK_SIDE]),
                ]),
                Some(bits) => return Err(Error::bad_data(format!("blocks of {bits} bits"))),
            }
            slots
        }
        _ => vec![
            starts(rows),
            slot("weight_columns", Dtype::U16, &[kept]),
            slot("weight_values", Dtype::F16, &[kept]),
        ],
    })
}

/// The bytes of each of them, in their order; nothing for a matrix that is not pruned.
pub(super) fn to_parts(weight: &Weight) -> Vec<Vec<u8>> {
    match weight {
        Weight::Bitmap(w) => {
            let mut parts = vec![to_bytes(w.bits()), to_bytes(w.starts())];
            match w.data() {
                BitmapData::Bf16(values) => parts.push(to_bytes(values)),
                BitmapData::Int8 { codes, scales, .. } => parts.extend([to_bytes(codes), to_bytes(scales)]),
                BitmapData::Int4 { words, scales, .. } => parts.extend([to_bytes(words), to_bytes(scales)]),
            }
            parts
        }
        Weight::Blocks(w) => {
            let mut parts = vec![to_bytes(w.starts()), to_bytes(w.columns())];
            match w.data() {
                BlockData::Bf16(values) => parts.push(to_bytes(values)),
                BlockData::Integers { words, scales, .. } => {
                    parts.extend([to_bytes(words), to_bytes(scales)]);
                }
            }
            parts
        }
        Weight::Sparse(w) => vec![to_bytes(w.starts()), to_bytes(w.columns()), to_bytes(w.values())],
        _ => vec![],
    }
}

/// Builds the matrix from the bytes of its tensors, by suffix. Errors: structure that does not agree.
pub(super) fn from_parts(
    encoding: Encoding,
    shape: (usize, usize),
    bytes: &BTreeMap<String, Vec<u8>>,
) -> Result<Weight, PackError> {
    let starts: Vec<u32> = from_bytes(&bytes["weight_starts"]);
    match encoding {
        Encoding::Bitmap { group, bits, kept } => {
            // Words of 4-bit codes hold eight, so their number alone does not tell how many are kept.
            if starts.last() != Some(&(kept as u32)) {
                return Err(PackError(format!("its starts do not end at {kept} kept weights")));
            }
            let data = match (group, bits) {
                (None, _) => BitmapData::Bf16(from_bytes(&bytes["weight_values"])),
                (Some(group), Some(_)) => BitmapData::Int4 {
                    words: from_bytes(&bytes["weight_codes"]),
                    scales: from_bytes(&bytes["weight_scale"]),
                    group,
                },
                (Some(group), None) => BitmapData::Int8 {
                    codes: from_bytes(&bytes["weight_codes"]),
                    scales: from_bytes(&bytes["weight_scale"]),
                    group,
                },
            };
            BitmapMatrix::from_parts(shape, from_bytes(&bytes["weight_bitmap"]), starts, data)
                .map(Weight::Bitmap)
        }
        Encoding::Blocks { bits, .. } => {
            let data = match bits {
                None => BlockData::Bf16(from_bytes(&bytes["weight_values"])),
                Some(bits) => BlockData::Integers {
                    bits: bits.get(),
                    words: from_bytes(&bytes["weight_codes"]),
                    scales: from_bytes(&bytes["weight_scale"]),
                },
            };
            let columns = from_bytes(&bytes["weight_columns"]);
            BlockMatrix::from_parts(shape, starts, columns, data).map(Weight::Blocks)
        }
        _ => {
            let columns = from_bytes(&bytes["weight_columns"]);
            SparseRows::new(shape, starts, columns, from_bytes(&bytes["weight_values"])).map(Weight::Sparse)
        }
    }
}
