//! The other half of the op set: gradients, losses and the optimiser's step, again as a trait
//! with two implementers, [`Reference`](super::Reference) and [`Cpu`](super::Cpu). `dy` is the
//! gradient of the loss with respect to a result, `dx` with respect to what it was made of.

mod cpu;
mod reference;

pub use tamis_kernels::adam::AdamStep;
pub use tamis_kernels::attention::{Sequence, SequenceGradient};
pub use tamis_kernels::loss::{Teacher, Weight as DivergenceWeight};

use super::{AttentionParams, Buffers, Ops};
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights};
use crate::units::Alpha;

/// What was normed, and the gradient of the result; both `[m, n]`.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a> {
    /// What the norm was taken of.
    pub x: &'a [f32],
    /// Gradient of the result.
    pub dy: &'a [f32],
}

/// What training needs computed. Shapes are row-major; `m` is the number of rows.
pub trait Backward: Ops {
    /// Memory for activations; fresh where none is kept.
    fn buffers(&self) -> Buffers {
        Buffers::default()
    }
    /// `y [m, out] = x [m, in] W(alpha)^T + b`, by sums in any order; rows do not depend on each other.
    fn product(&self, x: &[f32], linear: &Linear, alpha: Alpha, y: &mut [f32]) {
        self.linear(x, linear, alpha, y);
    }
    /// `dx [m, in] = dy [m, out] W(alpha)`.
    fn input_gradient(&self, dy: &[f32], linear: &Linear, alpha: Alpha, dx: &mut [f32]);
    /// `dw [out, in] += dy^T x` for `dy [m, out]` and `x [m, in]`, each with its width.
    fn weight_gradient(&self, dy: (&[f32], usize), x: (&[f32], usize), dw: &mut [f32]);
    /// Writes `dx`; adds to the gradients of scale and bias. `dbias` is empty for an RMS norm.
    fn norm_gradient(
        &self,
        norm: Norm,
        weights: &NormWeights,
        at: Normed<'_>,
        dx: &mut [f32],
        affine: (&mut [f32], &mut [f32]),
    );
    /// Turns gradients of rotated queries or keys back, in place.
    fn rotate_back(&self, dy: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]);
    /// The gradients of causal attention over one whole sequence.
    fn attend_gradient(
        &self,
        input: Sequence<'_>,
        params: &AttentionParams,
        dout: &[f32],
        to: SequenceGradient<'_>,
    );
    /// `x` (the gate, where there is one) and `up` become their gradients, given that of the result.
    fn activation_gradient(&self, activation: Activation, x: &mut [f32], up: Option<&mut [f32]>, dy: &[f32]);
    /// `losses[i] = -ln softmax(logits_i)[target_i]`; `logits [m, n]` become `scale` times the gradient.
    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scale: f32, losses: &mut [f32]);
    /// The same for the divergence from a teacher's largest probabilities.
    fn divergence(
        &self,
        logits: &mut [f32],
        teacher: Teacher<'_>,
        weight: DivergenceWeight,
        losses: &mut [f32],
    );
    /// One step of AdamW on a piece of the parameters with its two moments.
    fn adam_step(
        &self,
        params: &mut [f32],
        grads: &[f32],
        moments: (&mut [f32], &mut [f32]),
        step: &AdamStep,
    );
    /// `sum x^2`.
    fn sum_of_squares(&self, x: &[f32]) -> f64;
}
