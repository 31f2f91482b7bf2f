//! A low-rank addition to a linear layer: `y += s (x A^T) B^T`, `A [r, in]`, `B [out, r]` (LoRA, Hu 2021,
//! arXiv 2106.09685), and a set of them for a whole decoder. Knows no file and no training.

use std::collections::BTreeMap;
use std::sync::Arc;

use tamis_kernels::pack::DenseF32;

use super::block::Role;
use super::{Decoder, Linear, Weight};
use crate::error::{Error, Result};
use crate::ops::Ops;
use crate::units::Alpha;

/// `A`, `B` and the factor on their product.
#[derive(Debug, Clone)]
pub struct LowRank {
    a: Linear,
    b: Linear,
    scale: f32,
}

impl LowRank {
    /// From `a [rank, cols]` and `b [rows, rank]`. Errors: lengths that do not agree.
    pub fn new((rows, cols): (usize, usize), a: Vec<f32>, b: Vec<f32>, scale: f32) -> Result<Self> {
        let rank = a.len() / cols.max(1);
        let layer = |rows, cols, data| {
            DenseF32::new(rows, cols, data)
                .map(|weight| Linear::new(Weight::F32(weight), None))
                .map_err(|e| Error::bad_data(format!("a low-rank adapter: {e}")))
        };
        Ok(Self { a: layer(rank, cols, a)?, b: layer(rows, rank, b)?, scale })
    }
    /// `A [rank, in]`.
    pub fn a(&self) -> &Linear {
        &self.a
    }
    /// `B [out, rank]`.
    pub fn b(&self) -> &Linear {
        &self.b
    }
    /// The factor `s`.
    pub fn scale(&self) -> f32 {
        self.scale
    }
    /// `s x A^T`, `[m, rank]`.
    pub fn inner(&self, ops: &dyn Ops, x: &[f32]) -> Vec<f32> {
        let mut t = self.a.apply(ops, x, Alpha::ONE);
        t.iter_mut().for_each(|t| *t *= self.scale);
        t
    }
    /// Adds its part of the product with `x [m, in]` to `y [m, out]`.
    pub fn add(&self, ops: &dyn Ops, x: &[f32], y: &mut [f32]) {
        let part = self.b.apply(ops, &self.inner(ops, x), Alpha::ONE);
        ops.add(y, &part);
    }
    /// `s B A`, `[out, in]`.
    pub fn product(&self, ops: &dyn Ops) -> Vec<f32> {
        let (rank, cols) = (self.a.weight.rows(), self.a.weight.cols());
        let a = self.a.weight.to_f32(Alpha::ONE);
        let turned = (0..cols).flat_map(|c| (0..rank).map(move |r| r * cols + c)).map(|at| a[at]).collect();
        let turned = DenseF32::new(cols, rank, turned).expect("as many values as before");
        let mut b = self.b.weight.to_f32(Alpha::ONE);
        b.iter_mut().for_each(|b| *b *= self.scale);
        Linear::new(Weight::F32(turned), None).apply(ops, &b, Alpha::ONE)
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.a.weight.bytes() + self.b.weight.bytes()
    }
}

/// Low-rank additions by the name of their linear layer (`model.layers.0.self_attn.q_proj`). Attached to a
/// decoder they are shared, not copied, and they leave its weights alone: any number of them may wait beside
/// one decoder, to be attached in turn.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    parts: BTreeMap<String, Arc<LowRank>>,
}

impl Adapter {
    /// From additions by name.
    pub fn new(parts: impl IntoIterator<Item = (String, LowRank)>) -> Self {
        Self { parts: parts.into_iter().map(|(name, part)| (name, Arc::new(part))).collect() }
    }
    /// The addition to the linear layer of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<LowRank>> {
        self.parts.get(name)
    }
    /// Names of the linear layers that it adds to, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.parts.values().map(|part| part.bytes()).sum()
    }
    /// Puts these additions, and no others, on the linear layers of `decoder`. Errors: an addition
    /// without a linear layer of its name and shape; the decoder is then as it was.
    pub fn attach(&self, decoder: &mut Decoder) -> Result<()> {
        let mut fits = 0;
        each_linear(decoder, |name, linear| {
            let wanted = (linear.weight.rows(), linear.weight.cols());
            let shape = |part: &Arc<LowRank>| (part.b.weight.rows(), part.a.weight.cols());
            fits += usize::from(self.parts.get(name).is_some_and(|part| shape(part) == wanted));
        });
        if fits != self.parts.len() {
            let problem = format!("{} of {} additions fit this model", fits, self.parts.len());
            return Err(Error::usage(problem).next("use the model that the adapter was trained on"));
        }
        each_linear(decoder, |name, linear| linear.adapter = self.parts.get(name).cloned());
        Ok(())
    }
    /// Takes all additions off the linear layers of `decoder`.
    pub fn detach(decoder: &mut Decoder) {
        each_linear(decoder, |_, linear| linear.adapter = None);
    }
}

fn each_linear(decoder: &mut Decoder, mut each: impl FnMut(&str, &mut Linear)) {
    let config = decoder.config().clone();
    for (index, block) in decoder.blocks_mut().iter_mut().enumerate() {
        for role in Role::ALL {
            if let Some(linear) = block.linear_mut(role) {
                each(&role.name(&config, index), linear);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Reference;

    #[test]
    fn the_product_is_what_is_added() {
        let values = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
        let adapter = LowRank::new((5, 7), values(2 * 7, 0.7), values(5 * 2, 1.3), 0.5).unwrap();
        let x = values(3 * 7, 0.3);
        let mut y = vec![1.0; 3 * 5];
        adapter.add(&Reference, &x, &mut y);
        let whole = adapter.product(&Reference);
        for (x, y) in x.chunks(7).zip(y.chunks(5)) {
            for (row, y) in whole.chunks(7).zip(y) {
                let dot: f32 = row.iter().zip(x).map(|(w, x)| w * x).sum();
                assert!((1.0 + dot - y).abs() < 1e-5, "{dot} {y}");
            }
        }
        assert!(LowRank::new((5, 7), vec![0.0; 15], vec![0.0; 10], 1.0).is_err());
    }
}
