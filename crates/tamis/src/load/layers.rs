//! Layers from tensors: shapes are checked against the configuration, and norm weights
//! are brought into the form that the forward pass multiplies by.

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::model::architecture::NormStorage;
use crate::model::config::Norm;
use crate::model::{Linear, NormWeights, Weight};

impl Checkpoint {
    /// Reads the matrix `{name}.weight`, `[rows, cols]`.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let tensor = format!("{name}.weight");
        self.expect(&tensor, &[rows, cols])?;
        self.tensors.weight(&tensor)
    }
    /// Reads a vector of known length.
    pub fn vector(&self, tensor: &str, length: usize) -> Result<Vec<f32>> {
        self.expect(tensor, &[length])?;
        self.tensors.vector(tensor)
    }
    /// Reads the linear layer `name`, `[out, in]`, with its bias if the file has one.
    pub fn linear(&self, name: &str, out: usize, cols: usize) -> Result<Linear> {
        let bias = self.optional_vector(&format!("{name}.bias"), out)?;
        Ok(Linear::new(self.matrix(name, out, cols)?, bias))
    }
    /// Reads the weights of the norm `name`; a layer norm may have a bias.
    pub fn norm(&self, name: &str, width: usize, norm: Norm) -> Result<NormWeights> {
        let mut scale = self.vector(&format!("{name}.weight"), width)?;
        if self.config.architecture.family().norms == NormStorage::MinusOne {
            scale.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = match norm {
            Norm::Rms { .. } => None,
            Norm::Layer { .. } => self.optional_vector(&format!("{name}.bias"), width)?,
        };
        Ok(NormWeights { scale, bias })
    }
    /// Weights of the model, embedding and head included.
    pub fn parameters(&self) -> u64 {
        let count = |shape: &Vec<usize>| shape.iter().map(|n| *n as u64).product::<u64>();
        self.tensors.tensors().values().map(|info| count(&info.shape)).sum()
    }
    fn optional_vector(&self, tensor: &str, length: usize) -> Result<Option<Vec<f32>>> {
        let present = self.tensors.tensors().contains_key(tensor);
        present.then(|| self.vector(tensor, length)).transpose()
    }
    fn expect(&self, tensor: &str, shape: &[usize]) -> Result<()> {
        let info = self.tensors.tensors().get(tensor).ok_or_else(|| {
            Error::bad_data("missing")
                .tensor(tensor)
                .file(&self.path)
                .next("configuration and weights are not of the same model: fetch both again")
        })?;
        info.expect_shape(tensor, shape)
    }
}
