//! An adapter added to the weights of its model for good: checkpoint and adapter in, artifact out, a block
//! at a time. `W + s B A` (LoRA, Hu 2021, arXiv 2106.09685) is rounded to the model's own precision. Nothing
//! is lost without being asked for: masks and integers need a word from the caller. Knows no training.

use std::path::Path;

use serde_json::json;
use tamis_kernels::pack::{BitmapData, BlockData};

use super::estimate::rewriting;
use super::rewrite::{Notes, rewrite, storable};
use crate::artifact::{Existing, Manifest, Resume, Stored};
use crate::disk::digest::sha256;
use crate::error::{Error, Kind, Result};
use crate::load::Checkpoint;
use crate::model::{Adapter, LowRank, Weight};
use crate::ops::Ops;
use crate::units::Alpha;

/// What may be lost on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// In pruned linears, what the adapter would put where nothing is kept.
    pub keep_zeros: bool,
    /// The integers: 16 bits take their place.
    pub dequantise: bool,
}

/// Everything that a merge needs.
#[derive(Debug)]
pub struct Merge<'a> {
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// What is added to it.
    pub adapter: &'a Adapter,
    /// What may be lost.
    pub losses: Losses,
    /// Arithmetic of the products.
    pub ops: &'a dyn Ops,
    /// Folder to write.
    pub output: &'a Path,
    /// What to do with unfinished and finished work in it.
    pub policy: (Resume, Existing),
}

impl Merge<'_> {
    /// Writes the merged model; `watch` sees how many of how many blocks are done. Errors: what would be
    /// lost and may not be, before anything is written; those of loading and writing.
    pub fn run(&self, watch: &mut dyn FnMut(usize, usize)) -> Result<Manifest> {
        self.check()?;
        rewriting(self.checkpoint).check()?;
        let Losses { keep_zeros, dequantise } = self.losses;
        let digest = self.digest();
        let notes = Notes {
            identity: sha256(format!("merge {:?} {digest}", self.losses).as_bytes()),
            recipe: json!({
                "merge": { "adapter": digest, "keep_zeros": keep_zeros, "dequantise": dequantise }
            }),
            seed: 0,
        };
        let change = |name: &str, stored: Stored| match stored {
            Stored::Matrix(weight) => self.matrix(name, weight).map(Stored::Matrix),
            vector => Ok(vector),
        };
        rewrite(self.checkpoint, (self.output, self.policy), notes, &change, watch)
    }

    /// SHA-256 over names, factors and numbers of the adapter.
    fn digest(&self) -> String {
        let mut bytes = Vec::new();
        for name in self.adapter.names() {
            let Some(part) = self.adapter.get(name) else { continue };
            bytes.extend(name.as_bytes());
            bytes.extend(part.scale().to_le_bytes());
            for matrix in [part.a(), part.b()] {
                bytes.extend(matrix.weight.to_f32(Alpha::ONE).into_iter().flat_map(f32::to_le_bytes));
            }
        }
        sha256(&bytes)
    }

    /// Refuses, from the index alone, what would be refused in the middle.
    fn check(&self) -> Result<()> {
        let tensors = self.checkpoint.tensors();
        for (name, info) in tensors.tensors().iter().filter(|(_, info)| info.shape.len() == 2) {
            let adapted = name.strip_suffix(".weight").is_some_and(|name| self.adapter.get(name).is_some());
            let dense = matches!(info.dtype.to_ascii_lowercase().as_str(), "f32" | "f16" | "bf16");
            // Kinds of GGUF are written in capitals, and no artifact holds them.
            let foreign = !dense && info.dtype.starts_with(|c: char| c.is_ascii_uppercase());
            let integers = foreign || info.dtype.contains("int");
            let refused = if adapted && tensors.is_pruned(name) && !self.losses.keep_zeros {
                Some(pruned())
            } else if (adapted || foreign) && integers && !self.losses.dequantise {
                Some(quantised())
            } else {
                None
            };
            if let Some(error) = refused {
                return Err(error.file(&info.file).tensor(name));
            }
        }
        Ok(())
    }

    fn matrix(&self, name: &str, weight: Weight) -> Result<Weight> {
        match name.strip_suffix(".weight").and_then(|name| self.adapter.get(name)) {
            Some(part) => merged(&weight, part, self.losses, self.ops),
            None if matches!(weight, Weight::Ggml(_)) && !self.losses.dequantise => Err(quantised()),
            None => storable(weight),
        }
    }
}

fn pruned() -> Error {
    Error::usage("is pruned, and an adapter reaches where nothing is kept").next(
        "`--keep-zeros` adds it to the kept weights only and loses the rest; an adapter trained with MaskLoRA \
         loses nothing and is merged when training ends",
    )
}

fn quantised() -> Error {
    Error::usage("is quantised, and rounding again would lose what was learned")
        .next("`--dequantise` writes 16 bits; or run the model with `--adapter`")
}

/// `W + s B A` in the form of `W`: the same type, the same mask.
pub fn merged(weight: &Weight, part: &LowRank, losses: Losses, ops: &dyn Ops) -> Result<Weight> {
    let shape = (weight.rows(), weight.cols());
    if shape != (part.b().weight.rows(), part.a().weight.cols()) {
        return Err(Error::bad_data(format!("an addition of another shape than {shape:?}")));
    }
    let kept = weight.kept();
    if kept.is_some() && !losses.keep_zeros {
        return Err(pruned());
    }
    if has_integers(weight) && !losses.dequantise {
        return Err(quantised());
    }
    let mut sum = weight.to_f32(Alpha::ONE);
    for (at, (w, d)) in sum.iter_mut().zip(part.product(ops)).enumerate() {
        if kept.as_ref().is_none_or(|kept| kept[at]) {
            *w += d;
        }
    }
    let stored =
        if has_integers(weight) { weight.widened()?.with_values(&sum)? } else { weight.with_values(&sum)? };
    // A type of 16 bits may end below the sum.
    if stored.to_f32(Alpha::ONE).iter().any(|v| !v.is_finite()) {
        return Err(Error::new(Kind::NonFinite, "the sum does not fit into the type of the weight"));
    }
    Ok(stored)
}

fn has_integers(weight: &Weight) -> bool {
    match weight {
        Weight::F32(_) | Weight::Half(_) | Weight::Sparse(_) => false,
        Weight::Bitmap(w) => !matches!(w.data(), BitmapData::Bf16(_)),
        Weight::Blocks(w) => !matches!(w.data(), BlockData::Bf16(_)),
        Weight::Ggml(_) | Weight::Packed(_) | Weight::Sieved { .. } | Weight::Tiled { .. } => true,
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
