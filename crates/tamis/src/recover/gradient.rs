//! What every backward pass needs: the op set, the shape, where gradients go; and the gradients of
//! the pieces that occur again and again, linear layers and norms. Knows no order of layers.

use tamis_kernels::pack::DenseF32;

use super::parameters::Parameters;
use super::plan::{LinearPlan, NormPlan, Pair, Trained};
use crate::model::adapter::LowRank;
use crate::model::rotation::Rotation;
use crate::model::{Config, Linear, NormWeights, Weight};
use crate::ops::backward::Normed;
use crate::ops::{Backward, Buffer, Buffers, CacheType};
use crate::units::Alpha;

/// A pass forward and back over whole sequences of equal length.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Arithmetic.
    pub ops: &'a dyn Backward,
    /// Shape and switches.
    pub config: &'a Config,
    /// Angles of all rows.
    pub rotations: &'a [Rotation],
    /// Tokens of a sequence.
    pub length: usize,
    /// Numbers in which keys and values are read by attention.
    pub cache: CacheType,
    /// Memory of activations.
    pub buffers: &'a Buffers,
    /// Noise on the inputs of adapters.
    pub dropout: Dropout,
}

/// A share of the inputs of every adapter is set to zero, and the others are made larger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dropout {
    /// The share.
    pub share: f32,
    /// Differs from step to step.
    pub seed: u64,
}

impl Dropout {
    /// Multiplies `x` by its noise, 0 or `1 / (1 - share)`; the same for the same `place`.
    fn apply(self, place: u64, x: &mut [f32]) {
        let keep = 1.0 / (1.0 - self.share);
        let bound = (f64::from(self.share) * (1u64 << 32) as f64) as u64;
        for (at, x) in x.iter_mut().enumerate() {
            let noise = mixed(self.seed ^ mixed(place ^ mixed(at as u64))) >> 32;
            *x *= if noise < bound { 0.0 } else { keep };
        }
    }
    /// `x` with its noise, where there is any.
    fn noisy(self, place: u64, x: &[f32], buffers: &Buffers) -> Option<Buffer> {
        (self.share > 0.0).then(|| {
            let mut noisy = buffers.copy(x);
            self.apply(place, &mut noisy);
            noisy
        })
    }
}

/// The finaliser of SplitMix64 (Steele 2014): every bit of the result depends on every bit of `x`.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A linear layer with its plan, and a number that no other layer has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) linear: &'a Linear,
    pub(super) plan: &'a LinearPlan,
    pub(super) number: u64,
}

impl Place<'_> {
    /// Whether the way back asks for what the layer saw.
    pub(super) fn needs_input(self) -> bool {
        self.linear.adapter.is_some() || !matches!(self.plan.weight, Trained::Frozen)
    }
    fn shape(self) -> (usize, usize) {
        (self.linear.weight.rows(), self.linear.weight.cols())
    }
}

impl Pass<'_> {
    /// `y` of `x`, with noise before an adapter that is trained.
    pub(super) fn forward(self, at: Place<'_>, x: &[f32]) -> Buffer {
        let mut y = self.product(at.linear, x);
        if let Some(adapter) = &at.linear.adapter {
            let noisy = self.dropout.noisy(at.number, x, self.buffers);
            let inner = self.inner(adapter, noisy.as_deref().unwrap_or(x));
            self.ops.add(&mut y, &self.product(adapter.b(), &inner));
        }
        y
    }

    /// `y` of `x`, without an adapter.
    pub(super) fn product(self, linear: &Linear, x: &[f32]) -> Buffer {
        let mut y = self.buffers.take(x.len() / linear.weight.cols() * linear.weight.rows());
        self.ops.product(x, linear, Alpha::ONE, &mut y);
        y
    }

    /// `dx` of `dy`, without an adapter.
    pub(super) fn product_back(self, linear: &Linear, dy: &[f32]) -> Buffer {
        let mut dx = self.buffers.take(dy.len() / linear.weight.rows() * linear.weight.cols());
        self.ops.input_gradient(dy, linear, Alpha::ONE, &mut dx);
        dx
    }

    /// `s x A^T`.
    fn inner(self, adapter: &LowRank, x: &[f32]) -> Buffer {
        let mut t = self.product(adapter.a(), x);
        t.iter_mut().for_each(|t| *t *= adapter.scale());
        t
    }

    /// `dx` of `dy`; adds the gradients of what is trained. `x` is what the layer saw, where that is needed.
    pub(super) fn backward(
        self,
        at: Place<'_>,
        to: &mut Parameters,
        x: Option<&[f32]>,
        dy: &[f32],
    ) -> Buffer {
        let (n, k) = at.shape();
        if let Some(bias) = at.plan.bias {
            let sums = to.grads(bias);
            dy.chunks_exact(n).for_each(|dy| sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy));
        }
        if let Some(x) = x {
            self.weight_back(at, to, (x, dy));
        }
        let mut dx = self.product_back(at.linear, dy);
        if let Some(adapter) = &at.linear.adapter {
            let x = x.expect("an adapter needs what its layer saw");
            let part = self.adapter_back((at, adapter), to, (x, dy));
            self.ops.add(&mut dx, &part);
        }
        debug_assert_eq!(dx.len(), dy.len() / n * k);
        dx
    }

    /// Adds the gradient of the weight itself.
    fn weight_back(self, at: Place<'_>, to: &mut Parameters, (x, dy): (&[f32], &[f32])) {
        let (n, k) = at.shape();
        let dense = || {
            let mut dw = self.buffers.zeros(n * k);
            self.ops.weight_gradient((dy, n), (x, k), &mut dw);
            dw
        };
        match &at.plan.weight {
            Trained::Frozen | Trained::LowRank(_) => {}
            Trained::Dense(id) => self.ops.weight_gradient((dy, n), (x, k), to.grads(*id)),
            Trained::Kept(id, kept) => kept.gather_add(self.ops, &dense(), to.grads(*id)),
            Trained::Masked(pair, kept, _) => {
                let (all, mut masked) = (dense(), self.buffers.zeros(n * k));
                kept.scatter(self.ops, (&kept.gather(self.ops, &all), &mut masked), &|_, dw| dw);
                self.pair_of_product(*pair, to, (&masked, n, k));
            }
        }
    }

    /// `y += s (x A^T) B^T`:  `t = s x A^T`,  `dt = s dy B`,  `dB += dy^T t`,  `dA += dt^T x`,  `dx = dt A`.
    fn adapter_back(
        self,
        (at, adapter): (Place<'_>, &LowRank),
        to: &mut Parameters,
        (x, dy): (&[f32], &[f32]),
    ) -> Buffer {
        let noisy = self.dropout.noisy(at.number, x, self.buffers);
        let seen = noisy.as_deref().unwrap_or(x);
        let mut dt = self.product_back(adapter.b(), dy);
        dt.iter_mut().for_each(|dt| *dt *= adapter.scale());
        if let Trained::LowRank(pair) = at.plan.weight {
            let t = self.inner(adapter, seen);
            self.ops.weight_gradient((dy, at.shape().0), (&t, pair.rank), to.grads(pair.b));
            self.ops.weight_gradient((&dt, pair.rank), (seen, at.shape().1), to.grads(pair.a));
        }
        let mut dx = self.product_back(adapter.a(), &dt);
        // The noise is a factor on x, so it is one on the gradient too.
        if noisy.is_some() {
            self.dropout.apply(at.number, &mut dx);
        }
        dx
    }

    /// `dB += s dW A^T`, `dA += s B^T dW` for `W = s B A`.
    fn pair_of_product(self, pair: Pair, to: &mut Parameters, (dw, n, k): (&[f32], usize, usize)) {
        let Pair { a, b, rank, scale } = pair;
        let layer = |rows, cols, data: &[f32]| {
            let data = data.iter().map(|v| v * scale).collect();
            let weight = DenseF32::new(rows, cols, data).expect("a parameter has the shape of its plan");
            Linear::new(Weight::F32(weight), None)
        };
        let scaled_a = layer(rank, k, to.values(a));
        let db = scaled_a.apply(self.ops, dw, Alpha::ONE);
        let scaled_b: Vec<f32> = to.values(b).iter().map(|v| v * scale).collect();
        self.ops.add(to.grads(b), &db);
        self.ops.weight_gradient((&scaled_b, rank), (dw, k), to.grads(a));
        debug_assert_eq!(dw.len(), n * k);
    }

    /// `y` of `x`.
    pub(super) fn norm(self, weights: &NormWeights, x: &[f32]) -> Buffer {
        let mut y = self.buffers.take(x.len());
        self.ops.norm(x, self.config.norm, weights, &mut y);
        y
    }

    /// `dx` of `dy`; adds the gradients of the norm where it is trained.
    pub(super) fn norm_back(
        self,
        (weights, plan): (&NormWeights, Option<NormPlan>),
        to: &mut Parameters,
        at: Normed<'_>,
    ) -> Buffer {
        let mut dx = self.buffers.take(at.x.len());
        let (mut dscale, mut dbias) = (vec![0.0; weights.scale.len()], vec![0.0; weights.scale.len()]);
        self.ops.norm_gradient(self.config.norm, weights, at, &mut dx, (&mut dscale, &mut dbias));
        if let Some(plan) = plan {
            self.ops.add(to.grads(plan.scale), &dscale);
            if let Some(bias) = plan.bias {
                self.ops.add(to.grads(bias), &dbias);
            }
        }
        dx
    }
}
