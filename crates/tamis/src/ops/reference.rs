//! The op set as plain loops with f64 sums: the oracle for every fast path. Slow on purpose.

use tamis_kernels::attention::{AttentionParams, KvLayer, scalar};

use super::Ops;
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights};
use crate::units::Alpha;

/// Plain loops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl Ops for Reference {
    fn linear(&self, x: &[f32], linear: &Linear, alpha: Alpha, y: &mut [f32]) {
        linear.weight.with_rows(alpha, |w| {
            let mut row = vec![0.0; w.cols()];
            for o in 0..w.rows() {
                w.decode_row(o, &mut row);
                let bias = linear.bias.as_ref().map_or(0.0, |b| f64::from(b[o]));
                for (x, y) in x.chunks_exact(w.cols()).zip(y.chunks_exact_mut(w.rows())) {
                    y[o] = (dot(x, &row) + bias) as f32;
                }
            }
        });
    }

    fn norm(&self, x: &[f32], norm: Norm, weights: &NormWeights, y: &mut [f32]) {
        let n = weights.scale.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let (mean, eps) = match norm {
                Norm::Rms { eps } => (0.0, eps),
                Norm::Layer { eps } => (x.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64, eps),
            };
            let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
            let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
            for i in 0..n {
                let bias = weights.bias.as_ref().map_or(0.0, |b| f64::from(b[i]));
                y[i] = ((f64::from(x[i]) - mean) * inverse * f64::from(weights.scale[i]) + bias) as f32;
            }
        }
    }

    fn rotate(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        let half = head_dim / 2;
        let rows = cos.len() / half;
        for (row, x) in x.chunks_exact_mut(x.len() / rows).enumerate() {
            let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
            for head in x.chunks_exact_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
                    let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                    head[i] = (a * c - b * s) as f32;
                    head[i + half] = (b * c + a * s) as f32;
                }
            }
        }
    }

    fn attend(&self, q: &[f32], start: usize, cache: &KvLayer, params: &AttentionParams, out: &mut [f32]) {
        scalar::attend(q, start, cache, params, out);
    }

    fn received(
        &self,
        q: &[f32],
        positions: (usize, usize),
        cache: &KvLayer,
        params: &AttentionParams,
        out: &mut [f32],
    ) {
        scalar::received(q, positions, cache, params, out);
    }

    fn activate(&self, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
        for (i, x) in x.iter_mut().enumerate() {
            let (v, up) = (f64::from(*x), up.map_or(1.0, |up| f64::from(up[i])));
            *x = match activation {
                Activation::SwiGlu => v / (1.0 + (-v).exp()) * up,
                Activation::GeGluTanh => gelu_tanh(v) * up,
                Activation::Relu => v.max(0.0),
                Activation::Gelu => v * 0.5 * (1.0 + erf(v / std::f64::consts::SQRT_2)),
            } as f32;
        }
    }

    fn gram(&self, x: &[f32], sum: &mut [f64]) {
        let n = sum.len().isqrt();
        for x in x.chunks_exact(n) {
            for (i, sum) in sum.chunks_exact_mut(n).enumerate() {
                sum.iter_mut().zip(x).for_each(|(sum, b)| *sum += f64::from(x[i]) * f64::from(*b));
            }
        }
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

/// GELU by its tanh approximation (Hendrycks 2016, arXiv 1606.08415).
fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// `erf` by its Maclaurin series, which converges everywhere; beyond 6 it is 1 to the last bit.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
