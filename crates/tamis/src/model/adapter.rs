//! A low-rank addition to a linear layer: `y += s (x A^T) B^T`, `A [r, in]`, `B [out, r]` (LoRA, Hu 2021,
//! arXiv 2106.09685). Knows no file and no training.

use tamis_kernels::pack::DenseF32;

use super::{Linear, Weight};
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
