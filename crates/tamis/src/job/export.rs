//! A model without packing and without holes: every matrix dense, in the narrowest of bf16, f16 and f32 that
//! holds its numbers exactly, so that any program reads it and nothing is lost but space. Knows no recipe.

use std::path::Path;

use half::{bf16, f16};
use serde_json::json;
use tamis_kernels::pack::{DenseF32, DenseHalf, HalfData};

use super::rewrite::{Notes, Rewrite};
use crate::artifact::digest::sha256;
use crate::artifact::{Existing, Manifest, Resume, Stored};
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::model::Weight;
use crate::units::Alpha;

/// Writes `checkpoint` dense, with its ortho stream added at `alpha`; `watch` sees the parts.
pub fn export(
    checkpoint: &Checkpoint,
    alpha: Alpha,
    (output, policy): (&Path, (Resume, Existing)),
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Manifest> {
    let recipe = json!({ "export": { "alpha": alpha } });
    let notes = Notes { identity: sha256(recipe.to_string().as_bytes()), recipe, seed: 0 };
    let change = |_: &str, stored: Stored| match stored {
        Stored::Matrix(weight) => dense(&weight, alpha).map(Stored::Matrix),
        vector => Ok(vector),
    };
    Rewrite::open(checkpoint, output, notes, policy)?.run(&change, watch)
}

/// All weights of a matrix, exactly.
fn dense(weight: &Weight, alpha: Alpha) -> Result<Weight> {
    if let Weight::Half(_) | Weight::F32(_) = weight {
        return Ok(weight.clone());
    }
    let values = weight.to_f32(alpha);
    let (rows, cols) = (weight.rows(), weight.cols());
    let bad = |e: tamis_kernels::pack::PackError| Error::bad_data(e.to_string());
    let half = |data| DenseHalf::new(rows, cols, data).map(Weight::Half).map_err(bad);
    let same = |narrow: &dyn Fn(f32) -> f32| values.iter().all(|v| narrow(*v).to_bits() == v.to_bits());
    if same(&|v| bf16::from_f32(v).to_f32()) {
        return half(HalfData::Bf16(values.iter().map(|v| bf16::from_f32(*v)).collect()));
    }
    if same(&|v| f16::from_f32(v).to_f32()) {
        return half(HalfData::F16(values.iter().map(|v| f16::from_f32(*v)).collect()));
    }
    DenseF32::new(rows, cols, values).map(Weight::F32).map_err(bad)
}

#[cfg(test)]
mod tests {
    use tamis_kernels::pack::{BitmapKind, BitmapMatrix, BlockKind, BlockMatrix};

    use super::*;

    #[test]
    fn every_pruned_layout_is_exact_in_the_narrowest_type() {
        let values: Vec<f32> = (0..48 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let kept: Vec<bool> = (0..48 * 64).map(|i| i % 3 == 0).collect();
        let blocks: Vec<bool> = (0..12).map(|i| i % 2 == 0).collect();
        let shape = (48, 64);
        let layouts = [
            (Weight::Bitmap(BitmapMatrix::from_dense(shape, &values, &kept, BitmapKind::Bf16).unwrap()), 2),
            (
                Weight::Bitmap(
                    BitmapMatrix::from_dense(shape, &values, &kept, BitmapKind::Int8 { group: 32 }).unwrap(),
                ),
                4,
            ),
            (
                Weight::Bitmap(
                    BitmapMatrix::from_dense(shape, &values, &kept, BitmapKind::Int4 { group: 32 }).unwrap(),
                ),
                4,
            ),
            (Weight::Blocks(BlockMatrix::from_dense(shape, &values, &blocks, BlockKind::Bf16).unwrap()), 2),
        ];
        for (weight, width) in layouts {
            let exported = dense(&weight, Alpha::ONE).unwrap();
            assert_eq!(exported.to_f32(Alpha::ONE), weight.to_f32(Alpha::ONE));
            assert_eq!(exported.bytes(), 48 * 64 * width);
        }
    }
}
