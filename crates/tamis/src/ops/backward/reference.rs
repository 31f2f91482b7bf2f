//! Gradients as plain loops with f64 sums.

use tamis_kernels::linear::Precision;
use tamis_kernels::norm::NormInput;
use tamis_kernels::{activation, adam, attention, linear, loss, norm, rope};

use super::{
    AdamStep, AttentionParams, Backward, DivergenceWeight, Normed, Sequence, SequenceGradient, Teacher,
};
use crate::model::config::{Activation, Norm};
use crate::model::{Linear, NormWeights};
use crate::ops::Reference;
use crate::units::Alpha;

fn rounded(from: &[f64], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
}

fn added(from: &[f64], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (f64::from(*to) + from) as f32);
}

impl Backward for Reference {
    fn input_gradient(&self, dy: &[f32], layer: &Linear, alpha: Alpha, dx: &mut [f32]) {
        layer.weight.with_rows(alpha, |w| linear::scalar::input_gradient(dy, w, Precision::F32, dx));
    }
    fn weight_gradient(&self, dy: (&[f32], usize), x: (&[f32], usize), dw: &mut [f32]) {
        linear::scalar::weight_gradient(dy, x, Precision::F32, dw);
    }
    fn norm_gradient(
        &self,
        kind: Norm,
        weights: &NormWeights,
        at: Normed<'_>,
        dx: &mut [f32],
        (dscale, dbias): (&mut [f32], &mut [f32]),
    ) {
        let input = |eps| NormInput { x: at.x, weight: &weights.scale, eps };
        match kind {
            Norm::Rms { eps } => {
                let (x, scale) = norm::scalar::rms_norm_gradient(input(eps), at.dy);
                rounded(&x, dx);
                added(&scale, dscale);
            }
            Norm::Layer { eps } => {
                let (x, scale, bias) = norm::scalar::layer_norm_gradient(input(eps), at.dy);
                rounded(&x, dx);
                added(&scale, dscale);
                added(&bias, dbias);
            }
        }
    }
    fn rotate_back(&self, dy: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        let rows = cos.len() / (head_dim / 2);
        rope::scalar::rope_gradient(dy, dy.len() / (rows * head_dim), head_dim, cos, sin);
    }
    fn attend_gradient(
        &self,
        input: Sequence<'_>,
        params: &AttentionParams,
        dout: &[f32],
        to: SequenceGradient<'_>,
    ) {
        let [dq, dk, dv] = attention::scalar::attend_gradient(input, params, dout);
        rounded(&dq, to.q);
        rounded(&dk, to.k);
        rounded(&dv, to.v);
    }
    fn activation_gradient(&self, kind: Activation, x: &mut [f32], mut up: Option<&mut [f32]>, dy: &[f32]) {
        use activation::scalar::{
            gelu, gelu_slope, gelu_tanh, gelu_tanh_slope, relu_slope, silu, silu_slope,
        };
        for (i, x) in x.iter_mut().enumerate() {
            let (value, slope) = match kind {
                Activation::SwiGlu => (silu(*x), silu_slope(*x)),
                Activation::GeGluTanh => (gelu_tanh(*x), gelu_tanh_slope(*x)),
                Activation::Relu => (f64::from(x.max(0.0)), relu_slope(*x)),
                Activation::Gelu => (gelu(*x), gelu_slope(*x)),
            };
            let dy = f64::from(dy[i]);
            let factor = up.as_ref().map_or(1.0, |up| f64::from(up[i]));
            *x = (dy * factor * slope) as f32;
            if let Some(up) = &mut up {
                up[i] = (dy * value) as f32;
            }
        }
    }
    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scale: f32, losses: &mut [f32]) {
        let width = logits.len() / losses.len().max(1);
        for ((row, target), to) in logits.chunks_exact_mut(width.max(1)).zip(targets).zip(losses) {
            let wide: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
            let (loss, gradient) = loss::scalar::cross_entropy(&wide, *target as usize, f64::from(scale));
            *to = loss as f32;
            rounded(&gradient, row);
        }
    }
    fn divergence(
        &self,
        logits: &mut [f32],
        teacher: Teacher<'_>,
        weight: DivergenceWeight,
        losses: &mut [f32],
    ) {
        let width = logits.len() / losses.len().max(1);
        for (i, (row, to)) in logits.chunks_exact_mut(width.max(1)).zip(losses).enumerate() {
            let wide: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
            let part = i * teacher.top..(i + 1) * teacher.top;
            let ids = teacher.ids[part.clone()].iter().map(|id| *id as usize);
            let known: Vec<_> = ids.zip(teacher.log_probs[part].iter().map(|p| f64::from(*p))).collect();
            let (loss, gradient) = loss::scalar::divergence(&wide, &known, weight);
            *to = loss as f32;
            rounded(&gradient, row);
        }
    }
    fn adam_step(
        &self,
        params: &mut [f32],
        grads: &[f32],
        (m, v): (&mut [f32], &mut [f32]),
        step: &AdamStep,
    ) {
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|v| f64::from(*v)).collect() };
        let mut state = [wide(params), wide(m), wide(v)];
        adam::scalar::adam_step(&mut state, grads, step);
        rounded(&state[0], params);
        rounded(&state[1], m);
        rounded(&state[2], v);
    }
    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        adam::scalar::sum_of_squares(x)
    }
}
