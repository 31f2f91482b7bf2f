//! The numbers that are trained: f32 masters, their gradients, and the two moments of AdamW, one
//! vector each for every trained tensor. Knows no model.

use crate::error::Result;
use crate::memory::zeros;
use crate::ops::Backward;
use crate::ops::backward::AdamStep;

/// Index of a trained tensor.
pub type Id = usize;

/// One trained tensor.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name under which it is saved.
    pub name: String,
    /// Masters; of a masked tensor the kept weights only.
    pub values: Vec<f32>,
    /// Sum of gradients since the last step.
    pub grads: Vec<f32>,
    /// Mean gradient.
    pub m: Vec<f32>,
    /// Mean square.
    pub v: Vec<f32>,
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub decays: bool,
}

/// All trained tensors.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
}

impl Parameters {
    /// Adds a tensor; its gradients and moments are zero. Errors: there is no memory for these.
    pub fn add(&mut self, name: String, values: Vec<f32>, decays: bool) -> Result<Id> {
        let zeros = || zeros(values.len());
        let (grads, m, v) = (zeros()?, zeros()?, zeros()?);
        self.list.push(Parameter { name, values, grads, m, v, decays });
        Ok(self.list.len() - 1)
    }
    /// All of them.
    pub fn all(&self) -> &[Parameter] {
        &self.list
    }
    /// All of them, to be changed.
    pub fn all_mut(&mut self) -> &mut [Parameter] {
        &mut self.list
    }
    /// The masters of one.
    pub fn values(&self, id: Id) -> &[f32] {
        &self.list[id].values
    }
    /// The gradients of one.
    pub fn grads(&mut self, id: Id) -> &mut [f32] {
        &mut self.list[id].grads
    }
    /// Trained numbers.
    pub fn count(&self) -> usize {
        self.list.iter().map(|p| p.values.len()).sum()
    }
    /// Sets all gradients to zero.
    pub fn clear_grads(&mut self) {
        self.list.iter_mut().for_each(|p| p.grads.fill(0.0));
    }
    /// Drops gradients and moments: what is left can be written, but not trained.
    pub fn finish(&mut self) {
        for p in &mut self.list {
            (p.grads, p.m, p.v) = (Vec::new(), Vec::new(), Vec::new());
        }
    }
    /// Euclidean norm of all gradients; tensors are added in order.
    pub fn grad_norm(&self, ops: &dyn Backward) -> f64 {
        self.list.iter().map(|p| ops.sum_of_squares(&p.grads)).sum::<f64>().sqrt()
    }
    /// One step of AdamW.
    pub fn step(&mut self, ops: &dyn Backward, step: &AdamStep) {
        for p in &mut self.list {
            let weight_decay = if p.decays { step.weight_decay } else { 0.0 };
            let step = AdamStep { weight_decay, ..*step };
            ops.adam_step(&mut p.values, &p.grads, (&mut p.m, &mut p.v), &step);
        }
    }
    /// Bytes of masters, gradients and moments.
    pub fn bytes(count: usize) -> u64 {
        (count as u64).saturating_mul(16)
    }
}
