//! The op set of a decoder, as a trait with two implementers: [`Reference`], plain
//! loops with f64 sums that anybody can check by eye, and [`Cpu`], the kernels.
//! Rows are tokens; every op treats each row on its own, so neither the batch nor
//! the number of threads can change a bit of the result.

mod cpu;
mod reference;

pub use cpu::Cpu;
pub use reference::Reference;
pub use tamis_kernels::attention::{AttentionParams, CacheFull, CacheType, KvLayer};
pub use tamis_kernels::linear::Precision;
pub use tamis_kernels::{Isa, default_threads};

use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights};
use crate::units::Alpha;

/// What a decoder needs computed. Shapes are row-major; `m` is the number of rows.
pub trait Ops: Send + Sync + std::fmt::Debug {
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
