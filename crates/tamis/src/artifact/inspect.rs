//! What a model weighs, tensor by tensor, from its index alone: no weight is read, but for the masks of
//! pruned tensors. Works on every source, ours or not.

use serde::Serialize;

use super::holes::{Blocks, Holes};
use crate::disk::len;
use crate::error::Result;
use crate::load::{Checkpoint, Ortho};
use crate::model::Architecture;

/// Size of a model and of its tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Family.
    pub architecture: Architecture,
    /// Whether an ortho stream is there.
    pub ortho: Ortho,
    /// Weights, the embedding and an untied head included.
    pub parameters: u64,
    /// Bits of all tensors over all weights: codes, scales, zero points, ortho with its row
    /// starts, norms and biases.
    pub bits_per_weight: f64,
    /// Share of the weights of the linears that were pruned; none where none were.
    pub sparsity: Option<f64>,
    /// Bytes of the files that hold tensors.
    pub file_bytes: u64,
    /// Bytes of the same model at 16 bits.
    pub dense_bytes: u64,
    /// Bytes of the same model with the linears of all blocks at 4 bits, a scale for each 64 weights,
    /// and 16 bits for the rest: what pruning has to compete with.
    pub int4_bytes: u64,
    /// All tensors, by name.
    pub tensors: Vec<TensorReport>,
}

/// Size of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorReport {
    /// Hugging Face name.
    pub name: String,
    /// How it is stored: `int4 g64 sym + ortho 0.50%`, `BF16`, `Q4_1`.
    pub kind: String,
    /// `[out, in]`.
    pub shape: Vec<usize>,
    /// Bits of all its parts over its weights.
    pub bits_per_weight: f64,
    /// Bytes of all its parts.
    pub bytes: u64,
    /// Entries of its ortho stream.
    pub ortho_entries: usize,
    /// What is left out; none where it was not pruned.
    pub holes: Option<Holes>,
}

/// Bits of 64 weights of a linear at 4 bits, with their scale.
const INT4_BITS: u64 = 4 * 64 + 16;

impl Inspection {
    /// The blocks of all pruned tensors; none where nothing was pruned.
    pub fn blocks(&self) -> Option<Blocks> {
        self.tensors.iter().filter_map(|tensor| tensor.holes).map(|holes| holes.blocks).reduce(Blocks::and)
    }
}

/// Inspects an opened model.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Inspection> {
    let source = checkpoint.tensors();
    let mut tensors = Vec::new();
    let (mut parameters, mut bytes, mut linears) = (0, 0, 0);
    let names = checkpoint.config().architecture.family().names;
    let of_block = format!("{}.", names.block);
    for (name, info) in source.tensors() {
        let weights: u64 = info.shape.iter().map(|&d| d as u64).product();
        parameters += weights;
        bytes += info.bytes;
        if name.starts_with(&of_block) && info.shape.len() == 2 {
            linears += weights;
        }
        let pruned = source.is_pruned(name).then(|| source.weight(name)).transpose()?;
        tensors.push(TensorReport {
            name: name.clone(),
            kind: info.dtype.clone(),
            shape: info.shape.clone(),
            bits_per_weight: share(info.bytes, weights),
            bytes: info.bytes,
            ortho_entries: source.ortho_entries(name),
            holes: pruned.as_ref().and_then(Holes::of),
        });
    }
    let file_bytes = source.files().iter().map(|file| len(file)).sum::<Result<u64>>()?;
    Ok(Inspection {
        architecture: checkpoint.config().architecture,
        ortho: source.ortho(),
        parameters,
        bits_per_weight: share(bytes, parameters),
        sparsity: sparsity(&tensors, linears),
        file_bytes,
        dense_bytes: parameters * 2,
        int4_bytes: linears * INT4_BITS / (64 * 8) + (parameters - linears) * 2,
        tensors,
    })
}

fn sparsity(tensors: &[TensorReport], linears: u64) -> Option<f64> {
    let left_out = |t: &TensorReport| t.holes.map(|holes| t.shape.iter().product::<usize>() - holes.kept);
    let holes: Vec<usize> = tensors.iter().filter_map(left_out).collect();
    (!holes.is_empty()).then(|| holes.iter().sum::<usize>() as f64 / linears.max(1) as f64)
}

fn share(bytes: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { 8.0 * bytes as f64 / weights as f64 }
}
