//! A model without packing and without holes: every matrix dense, in the narrowest of bf16, f16 and f32 that
//! holds its numbers exactly, so that any program reads it and nothing is lost but space. Knows no recipe.

use std::collections::BTreeMap;
use std::path::Path;

use bytemuck::Zeroable;
use half::{bf16, f16};
use serde_json::json;
use tamis_kernels::pack::{DenseF32, DenseHalf, HalfData, RowSource};

use super::estimate::rewriting;
use super::rewrite::{Notes, rewrite};
use super::run::linear_roles;
use crate::artifact::{Existing, Manifest, Resume, Stored};
use crate::compress::Threads;
use crate::disk::digest::sha256;
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::memory::zeros;
use crate::model::Weight;
use crate::model::block::Role;
use crate::units::Alpha;

/// Rows that a thread converts at a time.
const ROWS: usize = 64;

/// Writes `checkpoint` dense, with its ortho stream added at `alpha`; `watch` sees the parts. The same bytes for any
/// number of threads.
pub fn export(
    checkpoint: &Checkpoint,
    (alpha, threads): (Alpha, Threads),
    (output, policy): (&Path, (Resume, Existing)),
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Manifest> {
    check_shapes(checkpoint)?;
    rewriting(checkpoint).check()?;
    let recipe = json!({ "export": { "alpha": alpha } });
    let notes = Notes { identity: sha256(recipe.to_string().as_bytes()), recipe, seed: 0 };
    let change = |_: &str, stored: Stored| match stored {
        Stored::Matrix(weight) => dense(weight, alpha, threads).map(Stored::Matrix),
        vector => Ok(vector),
    };
    rewrite(checkpoint, (output, policy), notes, &change, watch)
}

/// Holes take no room in a file, so nothing but the configuration says that the shape of a pruned tensor is meant.
fn check_shapes(checkpoint: &Checkpoint) -> Result<()> {
    let (config, source) = (checkpoint.config(), checkpoint.tensors());
    let of_block = |index: usize| {
        let linear = move |role: Role| (format!("{}.weight", role.name(config, index)), role.shape(config));
        linear_roles(config).into_iter().map(linear)
    };
    let linears: BTreeMap<String, (usize, usize)> = (0..config.layers.len()).flat_map(of_block).collect();
    for (name, info) in source.tensors().iter().filter(|(name, _)| source.is_pruned(name)) {
        let Some((rows, cols)) = linears.get(name) else {
            return Err(Error::bad_data("is pruned, but is no linear of the configuration")
                .file(&info.file)
                .tensor(name)
                .next("configuration and weights are not of the same model: fetch both again"));
        };
        info.expect_shape(name, &[*rows, *cols])?;
    }
    Ok(())
}

/// All weights of a matrix, exactly.
fn dense(weight: Weight, alpha: Alpha, threads: Threads) -> Result<Weight> {
    if let Weight::Half(_) | Weight::F32(_) = weight {
        return Ok(weight);
    }
    let (rows, cols) = (weight.rows(), weight.cols());
    let bad = |e: tamis_kernels::pack::PackError| Error::bad_data(e.to_string());
    weight.with_rows(alpha, |w| {
        let half = |data| DenseHalf::new(rows, cols, data).map(Weight::Half).map_err(bad);
        let (fits_bf16, fits_f16) = fits(w, threads);
        if fits_bf16 {
            return half(HalfData::Bf16(converted(w, threads, bf16::from_f32)?));
        }
        if fits_f16 {
            return half(HalfData::F16(converted(w, threads, f16::from_f32)?));
        }
        DenseF32::new(rows, cols, converted(w, threads, |v| v)?).map(Weight::F32).map_err(bad)
    })
}

/// Whether bf16 and whether f16 hold every weight exactly.
fn fits(w: &dyn RowSource, threads: Threads) -> (bool, bool) {
    let pieces = threads.map(w.rows().div_ceil(ROWS), |piece| {
        let mut values = vec![0.0; w.cols()];
        let mut fit = (true, true);
        for row in piece * ROWS..w.rows().min((piece + 1) * ROWS) {
            w.decode_row(row, &mut values);
            let same =
                |narrow: &dyn Fn(f32) -> f32| values.iter().all(|v| narrow(*v).to_bits() == v.to_bits());
            fit.0 = fit.0 && same(&|v| bf16::from_f32(v).to_f32());
            fit.1 = fit.1 && same(&|v| f16::from_f32(v).to_f32());
        }
        fit
    });
    pieces.into_iter().fold((true, true), |all, piece| (all.0 && piece.0, all.1 && piece.1))
}

/// All weights as `narrow` makes them. Errors: more of them than memory holds.
fn converted<T: Zeroable + Copy + Send>(
    w: &dyn RowSource,
    threads: Threads,
    narrow: impl Fn(f32) -> T + Sync,
) -> Result<Vec<T>> {
    let (rows, cols) = (w.rows(), w.cols());
    let mut all = zeros(rows * cols).map_err(|e| e.next("export on a machine with more memory"))?;
    let mut pieces: Vec<&mut [T]> = all.chunks_mut((ROWS * cols).max(1)).collect();
    threads.each(&mut pieces, |piece, out| {
        let mut values = vec![0.0; cols];
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            w.decode_row(piece * ROWS + row, &mut values);
            out.iter_mut().zip(&values).for_each(|(out, v)| *out = narrow(*v));
        }
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

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
            let exported = dense(weight.clone(), Alpha::ONE, Threads::ONE).unwrap();
            assert_eq!(exported.to_f32(Alpha::ONE), weight.to_f32(Alpha::ONE));
            assert_eq!(exported.bytes(), 48 * 64 * width);
        }
    }

    #[test]
    fn threads_change_no_value() {
        let (rows, cols) = (2 * ROWS + 5, 40);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let kept: Vec<bool> = (0..rows * cols).map(|i| i % 3 == 0).collect();
        for kind in [BitmapKind::Bf16, BitmapKind::Int8 { group: 32 }] {
            let bitmap = BitmapMatrix::from_dense((rows, cols), &values, &kept, kind).unwrap();
            let weight = Weight::Bitmap(bitmap);
            for count in 1..4 {
                let threads = Threads::new(NonZeroUsize::new(count).unwrap());
                let exported = dense(weight.clone(), Alpha::ONE, threads).unwrap();
                assert_eq!(exported.to_f32(Alpha::ONE), weight.to_f32(Alpha::ONE), "{count} threads");
            }
        }
    }
}
