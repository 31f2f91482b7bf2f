//! What a model weighs, tensor by tensor, from its index alone: no weight is read. Works
//! on every source, ours or not.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
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
    /// Bytes of the files that hold tensors.
    pub file_bytes: u64,
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
}

/// Inspects an opened model.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Inspection> {
    let source = checkpoint.tensors();
    let mut tensors = Vec::new();
    let (mut parameters, mut bytes) = (0, 0);
    for (name, info) in source.tensors() {
        let weights: u64 = info.shape.iter().map(|&d| d as u64).product();
        parameters += weights;
        bytes += info.bytes;
        tensors.push(TensorReport {
            name: name.clone(),
            kind: info.dtype.clone(),
            shape: info.shape.clone(),
            bits_per_weight: share(info.bytes, weights),
            bytes: info.bytes,
            ortho_entries: source.ortho_entries(name),
        });
    }
    let size = |file: &Path| Ok(std::fs::metadata(file).map_err(|e| Error::reading(file, &e))?.len());
    let file_bytes = source.files().iter().map(|f| size(f)).sum::<Result<u64>>()?;
    Ok(Inspection {
        architecture: checkpoint.config().architecture,
        ortho: source.ortho(),
        parameters,
        bits_per_weight: share(bytes, parameters),
        file_bytes,
        tensors,
    })
}

fn share(bytes: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { 8.0 * bytes as f64 / weights as f64 }
}
