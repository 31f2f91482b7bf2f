//! Which tensors a part of the artifact holds, and in what form. Linears of blocks come
//! compressed; embedding and head are kept at 16, 8 or 4 bits; norms and biases in f32.
//! Knows no calibration.

use std::collections::BTreeSet;

use tamis_kernels::pack::PackedMatrix;

use super::run::linear_roles;
use crate::artifact::{Part, Stored, Vector};
use crate::compress::{ClipSearch, Method, TensorPlan, Threads, Weights, compress_tensor};
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::model::block::{Block, Role};
use crate::model::{Config, Weight};
use crate::recipe::{EndBits, Recipe};
use crate::units::{Alpha, Bits, GroupSize};

/// Rows of an embedding that are converted at once.
const ROWS: usize = 4096;

/// Weights of a packed table that share a scale.
const TABLE_GROUP: usize = 32;

type Tensors = Vec<(String, Stored)>;

/// Names of all tensors of a part, from the index alone.
pub(super) fn names_of(checkpoint: &Checkpoint, part: Part) -> BTreeSet<String> {
    let tables = |names: Vec<&'static str>| table_names(checkpoint, names).into_iter().collect();
    match part {
        Part::Embedding => tables(stem_names(checkpoint)),
        Part::Head => tables(crown_names(checkpoint)),
        Part::Block(index) => {
            let config = checkpoint.config();
            let linears =
                linear_roles(config).into_iter().map(|role| format!("{}.weight", role.name(config, index)));
            linears.chain(block_vectors(checkpoint, index)).collect()
        }
    }
}

/// Names of the norms and biases of a block.
fn block_vectors(checkpoint: &Checkpoint, index: usize) -> impl Iterator<Item = String> {
    let prefix = format!("{}.{index}.", checkpoint.config().architecture.family().names.block);
    let all = checkpoint.tensors().tensors().iter();
    all.filter(move |(name, info)| name.starts_with(&prefix) && info.shape.len() == 1)
        .map(|(name, _)| name.clone())
}

/// Embedding, positions and input projection.
pub(super) fn stem_tensors(checkpoint: &Checkpoint, recipe: &Recipe, threads: Threads) -> Result<Tensors> {
    tables(checkpoint, stem_names(checkpoint), &|weight| table(weight, recipe.embedding, threads))
}

/// Final norm, output projection and an untied head.
pub(super) fn head_tensors(checkpoint: &Checkpoint, recipe: &Recipe, threads: Threads) -> Result<Tensors> {
    tables(checkpoint, crown_names(checkpoint), &|weight| table(weight, recipe.head, threads))
}

/// Bits that a weight takes which is in no linear of a block: `name` is the tensor's.
pub(super) fn end_bits_per_weight(checkpoint: &Checkpoint, recipe: &Recipe, name: &str) -> f64 {
    let is_vector = checkpoint.tensors().tensors().get(name).is_some_and(|info| info.shape.len() == 1);
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let bits = match stem {
        _ if is_vector => return 32.0,
        stem if stem_names(checkpoint).contains(&stem) => recipe.embedding,
        stem if crown_names(checkpoint).contains(&stem) => recipe.head,
        _ => EndBits::Sixteen,
    };
    match bits {
        EndBits::Sixteen => 16.0,
        // a scale at 16 bits
        packed => f64::from(u32::from(packed)) + 16.0 / TABLE_GROUP as f64,
    }
}

/// Names of what lies before the first block.
fn stem_names(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let names = checkpoint.config().architecture.family().names;
    [Some(names.embedding), names.positions, names.project_in].into_iter().flatten().collect()
}

/// Names of what lies behind the last block.
fn crown_names(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let names = checkpoint.config().architecture.family().names;
    let head = (!checkpoint.config().tied).then_some(names.head);
    [Some(names.final_norm), names.project_out, head].into_iter().flatten().collect()
}

/// Linears of a finished block as they are, everything else of the block in f32.
pub(super) fn block_tensors(checkpoint: &Checkpoint, index: usize, mut block: Block) -> Result<Tensors> {
    let config = checkpoint.config();
    let mut tensors = Tensors::new();
    for role in Role::ALL {
        if let Some(linear) = block.linear_mut(role) {
            let name = role.name(config, index);
            tensors.push((format!("{name}.weight"), Stored::Matrix(linear.weight.clone())));
            // The block's own: its rows may have been sorted.
            tensors.extend(linear.bias.take().map(|bias| (format!("{name}.bias"), bias.into())));
        }
    }
    for name in block_vectors(checkpoint, index) {
        if !tensors.iter().any(|(known, _)| *known == name) {
            let vector = checkpoint.tensors().vector(&name)?;
            tensors.push((name, vector.into()));
        }
    }
    Ok(tensors)
}

/// Puts the stored linears of a block back in place.
pub(super) fn restore(block: &mut Block, config: &Config, index: usize, tensors: Tensors) -> Result<()> {
    for (name, stored) in tensors {
        let stem = name.strip_suffix(".weight").or(name.strip_suffix(".bias"));
        let role = Role::ALL.into_iter().find(|r| stem == Some(&*r.name(config, index)));
        match (role.and_then(|role| block.linear_mut(role)), stored) {
            (Some(linear), Stored::Matrix(weight)) => linear.weight = weight,
            (Some(linear), Stored::Vector(Vector::F32(bias))) => linear.bias = Some(bias),
            (None, Stored::Vector(_)) => {}
            _ => return Err(Error::bad_data("a finished block holds an unexpected tensor").tensor(name)),
        }
    }
    Ok(())
}

/// Weights and biases that the checkpoint has under the given names.
fn table_names(checkpoint: &Checkpoint, names: Vec<&'static str>) -> Vec<String> {
    let known = checkpoint.tensors().tensors();
    let all = names.iter().flat_map(|name| ["weight", "bias"].map(|suffix| format!("{name}.{suffix}")));
    all.filter(|name| known.contains_key(name)).collect()
}

/// All tensors under the given names: matrices as `store` makes them, vectors in f32.
fn tables(
    checkpoint: &Checkpoint,
    names: Vec<&'static str>,
    store: &dyn Fn(&Weight) -> Result<Weight>,
) -> Result<Tensors> {
    let source = checkpoint.tensors();
    let tensor = |name: String| {
        if source.tensors()[&name].shape.len() == 1 {
            let vector = source.vector(&name)?;
            return Ok((name, vector.into()));
        }
        let table = store(&source.weight(&name)?).map_err(|e| e.tensor(&name))?;
        Ok((name, Stored::Matrix(table)))
    };
    table_names(checkpoint, names).into_iter().map(tensor).collect()
}

/// A table at 16 bits (bf16 where it was bf16 before, f16 otherwise) or at 8 (group 32, symmetric).
fn table(weight: &Weight, bits: EndBits, threads: Threads) -> Result<Weight> {
    match bits {
        EndBits::Sixteen => weight.to_half().map(Weight::Half),
        EndBits::Eight => packed_table(weight, (8, ClipSearch::Off), threads),
        EndBits::Four => packed_table(weight, (4, ClipSearch::Search), threads),
    }
}

fn packed_table(weight: &Weight, (bits, clip): (u32, ClipSearch), threads: Threads) -> Result<Weight> {
    let bits = Bits::new(bits)?;
    let plan = TensorPlan {
        bits,
        group: GroupSize::Of(TABLE_GROUP),
        clip,
        method: Method::Rtn,
        ..TensorPlan::default()
    };
    let (rows, cols) = (weight.rows(), weight.cols());
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    weight.with_rows(Alpha::ONE, |w| -> Result<()> {
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let mut data = vec![0.0; count * cols];
            data.chunks_exact_mut(cols).enumerate().for_each(|(r, out)| w.decode_row(first + r, out));
            let piece = Weights { rows: count, cols, data: &data };
            let done = compress_tensor(&piece, None, &plan, threads)?;
            let base = done.base().expect("rounding to nearest packs");
            words.extend_from_slice(base.words());
            scales.extend_from_slice(base.scales());
        }
        Ok(())
    })?;
    let group = plan.group.length(cols);
    PackedMatrix::from_words((rows, cols), bits.get(), group, words, scales, None)
        .map(Weight::Packed)
        .map_err(|e| Error::bad_data(e.to_string()))
}
