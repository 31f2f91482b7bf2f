//! An adapter added to the weights of its model for good: checkpoint and adapter in, artifact out, a block
//! at a time. `W + s B A` (LoRA, Hu 2021, arXiv 2106.09685) is rounded to the model's own precision. Nothing
//! is lost without being asked for: masks and integers need a word from the caller. Knows no training.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use serde_json::json;
use tamis_kernels::pack::{
    BITMAP_WORD, BLOCK_SIDE, BitmapData, BitmapMatrix, BlockData, BlockMatrix, DenseF32, DenseHalf, HalfData,
    PackError, SparseRows,
};

use super::parts::{block_tensors, crown_names, stem_names, tables};
use crate::artifact::digest::sha256;
use crate::artifact::{Existing, Finish, Identity, Manifest, Part, Resume, Writer};
use crate::error::{Error, Kind, Result};
use crate::load::Checkpoint;
use crate::model::block::{Block, Role};
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
        let mut writer = Writer::create_or_resume(self.output, &self.identity()?, self.policy)?;
        let finished = writer.finished();
        let keep = |weight: &Weight| self.storable(weight);
        if !finished.contains(&Part::Embedding) {
            writer.put(
                Part::Embedding,
                &tables(self.checkpoint, stem_names(self.checkpoint), &keep)?,
                BTreeMap::new(),
            )?;
        }
        let blocks = self.checkpoint.config().layers.len();
        for index in 0..blocks {
            if !finished.contains(&Part::Block(index)) {
                let tensors = block_tensors(self.checkpoint, index, self.block(index)?)?;
                writer.put(Part::Block(index), &tensors, BTreeMap::new())?;
            }
            watch(index + 1, blocks);
        }
        if !finished.contains(&Part::Head) {
            writer.put(
                Part::Head,
                &tables(self.checkpoint, crown_names(self.checkpoint), &keep)?,
                BTreeMap::new(),
            )?;
        }
        writer.finish(Finish {
            config: self.checkpoint.hf_config()?,
            files: self.checkpoint.text_files()?,
            recipe: json!({
                "merge": { "adapter": self.digest(), "keep_zeros": self.losses.keep_zeros, "dequantise": self.losses.dequantise }
            }),
            ..Finish::default()
        })
    }

    fn identity(&self) -> Result<Identity> {
        let what = sha256(format!("merge {:?} {}", self.losses, self.digest()).as_bytes());
        Ok(Identity::new(what, self.checkpoint.fingerprint()?, None))
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

    /// A weight that nothing is added to, in a form that an artifact can hold.
    fn storable(&self, weight: &Weight) -> Result<Weight> {
        match weight {
            Weight::Ggml(_) if !self.losses.dequantise => Err(quantised()),
            Weight::Ggml(_) => weight.to_half().map(Weight::Half),
            other => Ok(other.clone()),
        }
    }

    fn block(&self, index: usize) -> Result<Block> {
        let config = self.checkpoint.config();
        let mut block = Block::load(self.checkpoint, index)?;
        for role in Role::ALL {
            let Some(linear) = block.linear_mut(role) else { continue };
            let name = role.name(config, index);
            let weight = match self.adapter.get(&name) {
                Some(part) => merged(&linear.weight, part, self.losses, self.ops),
                None => self.storable(&linear.weight),
            };
            linear.weight = weight.map_err(|e| e.tensor(format!("{name}.weight")))?;
        }
        Ok(block)
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
        return Err(Error::usage(format!("an addition of another shape than {shape:?}")));
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
    let stored = stored(weight, shape, sum).map_err(|e| Error::bad_data(e.to_string()))?;
    let stored = if let (Weight::F32(_), true) = (&stored, has_integers(weight)) {
        Weight::Half(stored.to_half()?)
    } else {
        stored
    };
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

/// `sum` with the type and the mask of `like`; f32 where these were integers.
fn stored(like: &Weight, shape: (usize, usize), sum: Vec<f32>) -> Result<Weight, PackError> {
    let (rows, cols) = shape;
    match like {
        Weight::Half(half) => {
            let data = match half.data() {
                HalfData::F16(_) => HalfData::F16(sum.into_iter().map(f16::from_f32).collect()),
                HalfData::Bf16(_) => HalfData::Bf16(sum.into_iter().map(bf16::from_f32).collect()),
            };
            DenseHalf::new(rows, cols, data).map(Weight::Half)
        }
        Weight::Bitmap(w) => {
            let bit = |at: usize| {
                w.bits()[at / cols * cols.div_ceil(BITMAP_WORD) + at % cols / BITMAP_WORD]
                    >> (at % cols % BITMAP_WORD)
                    & 1
                    == 1
            };
            let data = (0..sum.len()).filter(|at| bit(*at)).map(|at| bf16::from_f32(sum[at])).collect();
            let (bits, starts) = (w.bits().to_vec(), w.starts().to_vec());
            BitmapMatrix::from_parts(shape, bits, starts, BitmapData::Bf16(data)).map(Weight::Bitmap)
        }
        Weight::Blocks(w) => {
            let across = cols.div_ceil(BLOCK_SIDE);
            let mut blocks = vec![false; w.strips() * across];
            for (strip, ends) in w.starts().windows(2).enumerate() {
                let columns = &w.columns()[ends[0] as usize..ends[1] as usize];
                columns.iter().for_each(|column| blocks[strip * across + usize::from(*column)] = true);
            }
            BlockMatrix::from_dense(shape, &sum, &blocks, tamis_kernels::pack::BlockKind::Bf16)
                .map(Weight::Blocks)
        }
        Weight::Sparse(w) => {
            let mut values = Vec::with_capacity(w.entries());
            for row in 0..rows {
                values.extend(w.row(row).0.iter().map(|c| f16::from_f32(sum[row * cols + usize::from(*c)])));
            }
            SparseRows::new(shape, w.starts().to_vec(), w.columns().to_vec(), values).map(Weight::Sparse)
        }
        _ => DenseF32::new(rows, cols, sum).map(Weight::F32),
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
