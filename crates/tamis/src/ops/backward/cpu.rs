//! Gradients on the kernels. f16 weights are rounded to bf16 like all others: noise far below that of a step, and
//! a head multiplied in f32 would take as long as ten blocks.

use tamis_kernels::attention::attend_gradient;
use tamis_kernels::norm::{NormInput, layer_norm_gradient, rms_norm_gradient};
use tamis_kernels::{activation, adam, linear, loss, rope};

use super::{
    AdamStep, AttentionParams, Backward, DivergenceWeight, Normed, Sequence, SequenceGradient, Teacher,
};
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights, Weight};
use crate::ops::cpu::add_bias;
use crate::ops::{Buffers, Cpu, Ops};
use crate::units::Alpha;

impl Backward for Cpu {
    fn buffers(&self) -> Buffers {
        self.buffers.clone()
    }
    fn product(&self, x: &[f32], layer: &Linear, alpha: Alpha, y: &mut [f32]) {
        if matches!(layer.weight, Weight::Tiled { .. }) {
            return self.linear(x, layer, alpha, y);
        }
        layer.weight.with_rows(alpha, |w| linear::linear_many(self.kernels(), x, w, self.products(), y));
        add_bias(layer, y);
    }
    fn input_gradient(&self, dy: &[f32], layer: &Linear, alpha: Alpha, dx: &mut [f32]) {
        layer.weight.with_rows(alpha, |w| linear::input_gradient(self.kernels(), dy, w, self.products(), dx));
    }
    fn weight_gradient(&self, dy: (&[f32], usize), x: (&[f32], usize), dw: &mut [f32]) {
        linear::weight_gradient(self.kernels(), dy, x, self.products(), dw);
    }
    fn norm_gradient(
        &self,
        norm: Norm,
        weights: &NormWeights,
        at: Normed<'_>,
        dx: &mut [f32],
        (dscale, dbias): (&mut [f32], &mut [f32]),
    ) {
        let input = |eps| NormInput { x: at.x, weight: &weights.scale, eps };
        match norm {
            Norm::Rms { eps } => rms_norm_gradient(self.kernels(), input(eps), at.dy, dx, dscale),
            Norm::Layer { eps } => {
                layer_norm_gradient(self.kernels(), input(eps), at.dy, dx, (dscale, dbias))
            }
        }
    }
    fn rotate_back(&self, dy: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        let rows = cos.len() / (head_dim / 2);
        rope::rope_gradient(self.kernels(), dy, dy.len() / (rows * head_dim), head_dim, cos, sin);
    }
    fn attend_gradient(
        &self,
        input: Sequence<'_>,
        params: &AttentionParams,
        dout: &[f32],
        to: SequenceGradient<'_>,
    ) {
        attend_gradient(self.kernels(), input, params, self.products(), dout, to);
    }
    fn activation_gradient(&self, kind: Activation, x: &mut [f32], up: Option<&mut [f32]>, dy: &[f32]) {
        let cpu = self.kernels();
        match (kind, up) {
            (Activation::SwiGlu, Some(up)) => activation::silu_mul_gradient(cpu, x, up, dy),
            (Activation::GeGluTanh, Some(up)) => activation::gelu_tanh_mul_gradient(cpu, x, up, dy),
            (Activation::Relu | Activation::Gelu, None) => {
                let mut dx = dy.to_vec();
                match kind {
                    Activation::Relu => activation::relu_gradient(cpu, x, &mut dx),
                    _ => activation::gelu_gradient(cpu, x, &mut dx),
                }
                x.copy_from_slice(&dx);
            }
            (kind, up) => panic!("{kind:?} with up = {}", up.is_some()),
        }
    }
    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scale: f32, losses: &mut [f32]) {
        loss::cross_entropy(self.kernels(), logits, targets, scale, losses);
    }
    fn divergence(
        &self,
        logits: &mut [f32],
        teacher: Teacher<'_>,
        weight: DivergenceWeight,
        losses: &mut [f32],
    ) {
        loss::divergence(self.kernels(), logits, teacher, weight, losses);
    }
    fn adam_step(
        &self,
        params: &mut [f32],
        grads: &[f32],
        moments: (&mut [f32], &mut [f32]),
        step: &AdamStep,
    ) {
        adam::adam_step(self.kernels(), params, grads, moments, step);
    }
    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        adam::sum_of_squares(self.kernels(), x)
    }
}
