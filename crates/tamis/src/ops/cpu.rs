//! The op set on the kernels: SIMD and all cores.

use tamis_kernels::attention::{AttentionParams, KvLayer, attend, received};
use tamis_kernels::linear::{self, linear};
use tamis_kernels::pack::HalfData;
use tamis_kernels::quantized::{self, Product};
use tamis_kernels::{Isa, activation, gram, norm, rope};

use super::{Buffers, Ops, Precision};
use crate::error::Result;
use crate::memory::check_threads;
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights, Weight};
use crate::units::Alpha;

/// Kernels on the best instruction set of this machine and a fixed set of threads.
#[derive(Debug)]
pub struct Cpu {
    kernels: tamis_kernels::Cpu,
    precision: Precision,
    /// Memory for activations of training.
    pub(super) buffers: Buffers,
}

impl Cpu {
    /// `precision` is that of the matrix products. Fewer threads than asked for where the system refuses one.
    pub fn new(isa: Isa, threads: usize, precision: Precision) -> Self {
        let kernels = tamis_kernels::Cpu::new(isa, threads);
        Self { kernels, precision, buffers: Buffers::default() }
    }

    /// The same. Errors: [`Kind::Memory`](crate::Kind::Memory), where so many threads cannot be started.
    pub fn started(isa: Isa, threads: usize, precision: Precision) -> Result<Self> {
        let cpu = Self::new(isa, threads, precision);
        check_threads(cpu.kernels.pool.threads(), threads)?;
        Ok(cpu)
    }

    /// The product with weights that are not tiled.
    fn multiply(&self, x: &[f32], layer: &Linear, alpha: Alpha, y: &mut [f32]) {
        let rounding = self.rounding(&layer.weight);
        layer.weight.with_rows(alpha, |w| linear(&self.kernels, x, w, rounding, y));
    }

    /// Precision of the matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }
    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.kernels.pool.threads()
    }
    /// Instruction set and threads.
    pub(super) fn kernels(&self) -> &tamis_kernels::Cpu {
        &self.kernels
    }

    /// Rounding of the operands of a product of activations with each other.
    pub(super) fn products(&self) -> linear::Precision {
        if self.precision == Precision::F32 { linear::Precision::F32 } else { linear::Precision::Bf16 }
    }

    /// Rounding of the operands of a product that no integer kernel takes.
    pub(super) fn rounding(&self, weight: &Weight) -> linear::Precision {
        match (self.precision, weight) {
            (Precision::F32, _) => linear::Precision::F32,
            // bf16 would take three bits of each weight.
            (_, Weight::Half(w)) if matches!(w.data(), HalfData::F16(_)) => linear::Precision::F32,
            _ => linear::Precision::Bf16,
        }
    }
}

/// The product of an integer layer, if it is one.
fn product<'a>(layer: &'a Linear, alpha: Alpha, y: &'a mut [f32]) -> Option<Product<'a>> {
    let Weight::Tiled { base, ortho } = &layer.weight else { return None };
    let stream = ortho.as_deref().filter(|_| alpha != Alpha::ZERO).map(|ortho| (ortho, alpha.get()));
    Some(Product { weights: base, stream, y })
}

pub(super) fn add_bias(layer: &Linear, y: &mut [f32]) {
    if let Some(bias) = &layer.bias {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
}

impl Ops for Cpu {
    fn prepare(&self, weight: Weight) -> Weight {
        if self.precision == Precision::Int8 { weight.tiled(&self.kernels.pool) } else { weight }
    }
    fn each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.kernels.pool.run(count, task);
    }
    fn linears(&self, x: &[f32], layers: &[&Linear], alpha: Alpha) -> Vec<Vec<f32>> {
        let empty = |layer: &&Linear| vec![0.0; x.len() / layer.weight.cols() * layer.weight.rows()];
        let mut ys: Vec<Vec<f32>> = layers.iter().map(empty).collect();
        let mut products = Vec::new();
        for (layer, y) in layers.iter().zip(&mut ys) {
            if matches!(layer.weight, Weight::Tiled { .. }) {
                products.extend(product(layer, alpha, y));
            } else {
                self.multiply(x, layer, alpha, y);
            }
        }
        // All integer layers in one pass: x is rounded once, and threads meet once.
        quantized::linear(&self.kernels, x, &mut products);
        layers.iter().zip(&mut ys).for_each(|(layer, y)| add_bias(layer, y));
        ys
    }
    fn linear(&self, x: &[f32], layer: &Linear, alpha: Alpha, y: &mut [f32]) {
        match product(layer, alpha, y) {
            Some(product) => quantized::linear(&self.kernels, x, &mut [product]),
            None => self.multiply(x, layer, alpha, y),
        }
        add_bias(layer, y);
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
        gram::gram_add(&self.kernels, x, sum.len().isqrt(), self.products(), sum);
    }
    fn add(&self, x: &mut [f32], y: &[f32]) {
        activation::add(&self.kernels, x, y);
    }
}
