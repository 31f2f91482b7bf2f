//! Rotary angles of the rows of one forward pass (Su 2021, arXiv 2104.09864).
//! Computed in f64 and rounded once; knows no weights.

use super::config::{Config, Positions};

/// `cos` and `sin` of every row and pair, `[m, head_dim / 2]`.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

impl Rotation {
    /// One rotation for each rotary table of the model (none for learned positions).
    pub fn all(config: &Config, positions: &[usize]) -> Vec<Self> {
        let Positions::Rotary(ropes) = &config.positions else { return Vec::new() };
        ropes.iter().map(|rope| Self::at(&rope.inverse_frequencies(config.head_dim), positions)).collect()
    }

    /// The angles of some of the `of` rows.
    pub fn pick(&self, rows: impl Iterator<Item = usize> + Clone, of: usize) -> Self {
        let width = self.cos.len() / of;
        let pick = |angles: &[f32]| pick_rows(angles, width, rows.clone());
        Self { cos: pick(&self.cos), sin: pick(&self.sin) }
    }

    fn at(inverse_frequencies: &[f64], positions: &[usize]) -> Self {
        let angles = || positions.iter().flat_map(|&p| inverse_frequencies.iter().map(move |f| p as f64 * f));
        Self {
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }
}

/// Some rows of a matrix `[_, width]`.
pub fn pick_rows(matrix: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.flat_map(|row| &matrix[row * width..][..width]).copied().collect()
}
