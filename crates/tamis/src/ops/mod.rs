//! The op set of a decoder, as a trait with two implementers: [`Reference`], plain
//! loops with f64 sums that anybody can check by eye, and [`Cpu`], the kernels.
//! Rows are tokens; every op treats each row on its own, so neither the batch nor
//! the number of threads can change a bit of the result.

pub mod backward;
mod buffers;
mod cpu;
mod reference;

use std::sync::{Mutex, PoisonError};

pub use backward::Backward;
pub use buffers::{Buffer, Buffers};
pub use cpu::Cpu;
pub use reference::Reference;
pub use tamis_kernels::attention::{AttentionParams, CacheFull, CacheType, KvLayer};
pub use tamis_kernels::{Isa, default_threads};

use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights, Weight};
use crate::units::Alpha;

/// Calls `task(i, piece)` for each piece of `size` values, on any thread.
pub fn each_piece<T: Send>(
    ops: &dyn Ops,
    values: &mut [T],
    size: usize,
    task: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    each_part(ops, values.chunks_mut(size).collect(), task);
}

/// The same for pieces of any sizes.
pub fn each_part<T: Send>(ops: &dyn Ops, parts: Vec<&mut [T]>, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
    // Every piece is locked once; the locks are there for the borrow checker.
    let parts: Vec<Mutex<&mut [T]>> = parts.into_iter().map(Mutex::new).collect();
    ops.each(parts.len(), &|i| {
        let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        task(i, &mut part);
    });
}

/// How the activations that a linear layer sees are rounded; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, and weights stored as f32 as well; f16 weights are multiplied in f32.
    Bf16,
    /// To int8 in blocks of 32 or 64 with a scale each, where weights are integers
    /// (`tamis_kernels::quantized`); as `Bf16` for the others.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// What a decoder needs computed. Shapes are row-major; `m` is the number of rows.
pub trait Ops: Send + Sync + std::fmt::Debug {
    /// The weight in the form that this op set multiplies fastest; the same numbers.
    fn prepare(&self, weight: Weight) -> Weight {
        weight
    }
    /// Calls `task(0)` to `task(count - 1)`, each once, in any order and on any thread.
    fn each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    /// Several linear layers of the same `x`; `y [m, out]` of each.
    fn linears(&self, x: &[f32], layers: &[&Linear], alpha: Alpha) -> Vec<Vec<f32>> {
        let one = |layer: &&Linear| {
            let mut y = vec![0.0; x.len() / layer.weight.cols() * layer.weight.rows()];
            self.linear(x, layer, alpha, &mut y);
            y
        };
        layers.iter().map(one).collect()
    }
    /// `y [m, out] = x [m, in] W(alpha)^T + b`.
    fn linear(&self, x: &[f32], linear: &Linear, alpha: Alpha, y: &mut [f32]);
    /// `y [m, n] = norm(x [m, n])`, row by row.
    fn norm(&self, x: &[f32], norm: Norm, weights: &NormWeights, y: &mut [f32]);
    /// Rotates `x [m, heads, head_dim]` in place, half-split pairs, by `cos, sin [m, head_dim / 2]`.
    fn rotate(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]);
    /// Causal attention of `q [m, heads, head_dim]`, whose first row stands at position `start`,
    /// over the keys and values in `cache`, which already holds those of the rows themselves.
    fn attend(&self, q: &[f32], start: usize, cache: &KvLayer, params: &AttentionParams, out: &mut [f32]);
    /// The attention that each position of `cache` receives, `out [cache.len()]`: the sum of the
    /// softmax over all heads of `q [m, heads, head_dim]`, whose rows stand at `positions.0,
    /// positions.0 + positions.1, ...`. The cache's values are not looked at.
    fn received(
        &self,
        q: &[f32],
        positions: (usize, usize),
        cache: &KvLayer,
        params: &AttentionParams,
        out: &mut [f32],
    );
    /// `x = f(x) * up` for a gated activation, `x = f(x)` for one without `up`.
    fn activate(&self, activation: Activation, x: &mut [f32], up: Option<&[f32]>);
    /// `sum += x^T x` for `x [m, n]`, `sum [n, n]`.
    fn gram(&self, x: &[f32], sum: &mut [f64]);
    /// `x += y`.
    fn add(&self, x: &mut [f32], y: &[f32]);
}
