//! The op set on the kernels: SIMD and all cores.

use tamis_kernels::attention::{AttentionParams, KvLayer, attend, received};
use tamis_kernels::linear::{Precision, linear};
use tamis_kernels::{Isa, activation, gram, norm, rope};

use super::Ops;
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights};
use crate::units::Alpha;

/// Kernels on the best instruction set of this machine and a fixed set of threads.
#[derive(Debug)]
pub struct Cpu {
    kernels: tamis_kernels::Cpu,
    precision: Precision,
}

impl Cpu {
    /// `precision` is that of the matrix products: f32, or bf16 inputs with f32 sums.
    pub fn new(isa: Isa, threads: usize, precision: Precision) -> Self {
        Self { kernels: tamis_kernels::Cpu::new(isa, threads), precision }
    }
}

impl Ops for Cpu {
    fn linear(&self, x: &[f32], layer: &Linear, alpha: Alpha, y: &mut [f32]) {
        layer.weight.with_rows(alpha, |w| linear(&self.kernels, x, w, self.precision, y));
        if let Some(bias) = &layer.bias {
            y.chunks_exact_mut(bias.len())
                .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
    }
    fn norm(&self, x: &[f32], norm: Norm, weights: &NormWeights, y: &mut [f32]) {
        match norm {
            Norm::Rms { eps } => norm::rms_norm(&self.kernels, x, &weights.scale, eps, y),
            Norm::Layer { eps } => {
                let zeros;
                let bias = match &weights.bias {
                    Some(bias) => bias,
                    None => {
                        zeros = vec![0.0; weights.scale.len()];
                        &zeros
                    }
                };
                norm::layer_norm(&self.kernels, x, &weights.scale, bias, eps, y);
            }
        }
    }
    fn rotate(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        let rows = cos.len() / (head_dim / 2);
        rope::rope(&self.kernels, x, x.len() / (rows * head_dim), head_dim, cos, sin);
    }
    fn attend(&self, q: &[f32], start: usize, cache: &KvLayer, params: &AttentionParams, out: &mut [f32]) {
        attend(&self.kernels, q, start, cache, params, out);
    }
    fn received(
        &self,
        q: &[f32],
        positions: (usize, usize),
        cache: &KvLayer,
        params: &AttentionParams,
        out: &mut [f32],
    ) {
        received(&self.kernels, q, positions, cache, params, out);
    }
    fn activate(&self, kind: Activation, x: &mut [f32], up: Option<&[f32]>) {
        match (kind, up) {
            (Activation::SwiGlu, Some(up)) => activation::silu_mul(&self.kernels, x, up),
            (Activation::GeGluTanh, Some(up)) => activation::gelu_tanh_mul(&self.kernels, x, up),
            (Activation::Relu, None) => activation::relu(&self.kernels, x),
            (Activation::Gelu, None) => activation::gelu(&self.kernels, x),
            _ => panic!("{kind:?} with up = {}", up.is_some()),
        }
    }
    fn gram(&self, x: &[f32], sum: &mut [f64]) {
        gram::gram_add(&self.kernels, x, sum.len().isqrt(), self.precision, sum);
    }
    fn add(&self, x: &mut [f32], y: &[f32]) {
        activation::add(&self.kernels, x, y);
    }
}
