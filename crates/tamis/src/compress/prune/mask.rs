//! Which weights of a matrix are kept. Knows no scores and no values.
//!
//! As in Sun 2023, arXiv 2306.11695, but kept beside the weights: a zero among them says nothing.

/// `[rows, cols]`: true where a weight is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    cols: usize,
    kept: Vec<bool>,
}

impl Mask {
    /// Row by row.
    ///
    /// # Panics
    /// If `kept` is not whole rows of `cols`.
    pub fn new(cols: usize, kept: Vec<bool>) -> Self {
        assert!(cols > 0 && kept.len().is_multiple_of(cols), "{} flags are no rows of {cols}", kept.len());
        Self { cols, kept }
    }
    /// Output features.
    pub fn rows(&self) -> usize {
        self.kept.len() / self.cols
    }
    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// All flags, row by row.
    pub fn flags(&self) -> &[bool] {
        &self.kept
    }
    /// One row.
    pub fn row(&self, row: usize) -> &[bool] {
        &self.kept[row * self.cols..][..self.cols]
    }
    /// Weights that are kept.
    pub fn kept(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }
    /// Share of weights that are not.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.kept() as f64 / self.kept.len() as f64
    }
    /// Sets what is not kept to zero.
    ///
    /// # Panics
    /// If `weights` are of another shape.
    pub fn apply(&self, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.kept.len());
        weights.iter_mut().zip(&self.kept).filter(|(_, kept)| !**kept).for_each(|(w, _)| *w = 0.0);
    }
}
