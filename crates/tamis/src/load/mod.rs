//! Bytes to a checked [`Checkpoint`]: Hugging Face folders, GGUF files and our own
//! artifacts. Everything read here is hostile input. Tensors are read lazily by
//! their Hugging Face name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::config::Norm;
use crate::model::{Config, Linear, NormWeights, Weight};

const MISMATCH: &str = "the weights and the configuration belong to different models; fetch both again";

/// What the index of a checkpoint says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage type as its format writes it (`F32`, `BF16`, `Q4_1`, ...), or `int4-g64` and
    /// the like for a tensor of our artifact.
    pub dtype: String,
    /// Row-major shape, Hugging Face order (`[out, in]`).
    pub shape: Vec<usize>,
    /// Bytes on disk, all parts together.
    pub bytes: u64,
    /// File that holds the (first) bytes.
    pub file: PathBuf,
}

/// A set of named tensors that can be read one at a time.
pub trait TensorSource: Send + Sync + std::fmt::Debug {
    /// All tensors by Hugging Face name (`model.layers.0.mlp.up_proj.weight`). A quantised
    /// linear of our artifact is one entry under its `.weight` name.
    fn tensors(&self) -> &BTreeMap<String, TensorInfo>;
    /// Reads a matrix in the form it is stored. Errors: missing, wrong shape, NaN or Inf.
    fn weight(&self, name: &str) -> Result<Weight>;
    /// Reads a one-dimensional tensor as f32. Errors as for `weight`.
    fn vector(&self, name: &str) -> Result<Vec<f32>>;
}

/// An opened model: configuration, text side and lazily read tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    tensors: Box<dyn TensorSource>,
}

impl Checkpoint {
    /// Puts a checkpoint together from parts that a reader has checked.
    pub fn new(path: PathBuf, config: Config, tensors: Box<dyn TensorSource>) -> Self {
        Self { path, config, tensors }
    }
    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Shape and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// Reads the matrix `{name}.weight` and checks its shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let tensor = format!("{name}.weight");
        let weight = self.tensors.weight(&tensor)?;
        let found = (weight.rows(), weight.cols());
        if found != (rows, cols) {
            let problem = format!("shape {found:?}, but the configuration says {:?}", (rows, cols));
            return Err(Error::bad_data(problem).tensor(tensor).file(&self.path).next(MISMATCH));
        }
        Ok(weight)
    }
    /// Reads a vector and checks its length.
    pub fn vector(&self, tensor: &str, length: usize) -> Result<Vec<f32>> {
        let vector = self.tensors.vector(tensor)?;
        if vector.len() != length {
            let problem = format!("length {}, but the configuration says {length}", vector.len());
            return Err(Error::bad_data(problem).tensor(tensor).file(&self.path).next(MISMATCH));
        }
        Ok(vector)
    }
    /// Reads the linear layer `name`, `[out, in]`, with its bias if the file has one.
    pub fn linear(&self, name: &str, out: usize, cols: usize) -> Result<Linear> {
        Ok(Linear { weight: self.matrix(name, out, cols)?, bias: self.optional_vector(&format!("{name}.bias"), out)? })
    }
    /// Reads the weights of the norm `name`; a layer norm may have a bias.
    pub fn norm(&self, name: &str, width: usize, norm: Norm) -> Result<NormWeights> {
        let scale = self.vector(&format!("{name}.weight"), width)?;
        let bias = match norm {
            Norm::Rms { .. } => None,
            Norm::Layer { .. } => self.optional_vector(&format!("{name}.bias"), width)?,
        };
        Ok(NormWeights { scale, bias })
    }
    fn optional_vector(&self, tensor: &str, length: usize) -> Result<Option<Vec<f32>>> {
        let present = self.tensors.tensors().contains_key(tensor);
        present.then(|| self.vector(tensor, length)).transpose()
    }
    /// The tensors.
    pub fn tensors(&self) -> &dyn TensorSource {
        &*self.tensors
    }
}
