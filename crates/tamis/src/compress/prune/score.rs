//! What a weight, or a block of weights, is worth. Knows no masks.
//!
//! With `n_j = sqrt(H_jj)`, the norm of input `j` (a factor common to all inputs cancels):
//!
//! * magnitude `|w_ij|`;
//! * Wanda `|w_ij| n_j` (Sun 2023, arXiv 2306.11695); its square is the loss that removing the
//!   weight alone makes, as far as the diagonal of H tells;
//! * RIA `(|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) sqrt(n_j)` (Zhang 2024, ICLR, "Plug-and-play").
//!
//! For a block `B` of rows and columns: the mean of `|w_ij| n_j`; the sum of `(w_ij n_j)^2`; and
//! `tr(W_B [(H^-1)_BB]^-1 W_B^T)`, the loss that is left once all other weights have made
//! up for the block as well as they can (optimal brain surgeon, Hassibi 1993, for columns together).

use crate::compress::evidence::Evidence;
use crate::compress::factor::InverseFactor;
use crate::compress::lanes::Weights;
use crate::compress::naive::invert;
use crate::error::Result;

/// What a weight is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Its magnitude.
    Magnitude,
    /// Its magnitude times the norm of its input.
    Wanda,
    /// Its share of its row and of its column, times the root of the norm of its input.
    Ria,
}

/// What a block of weights is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockScore {
    /// Mean magnitude times norm: a baseline, which averages one decisive weight away.
    MeanMagnitude,
    /// Sum of squares: the loss, as far as the diagonal of H tells.
    Diagonal,
    /// The loss after the best compensation by all other weights.
    BrainSurgeon,
}

/// Norms of the inputs, damping taken off.
pub fn norms(evidence: &Evidence) -> Vec<f32> {
    let norm = |h: f32| (f64::from(h) - evidence.lambda()).max(0.0).sqrt() as f32;
    evidence.diagonal().into_iter().map(norm).collect()
}

/// Norms of the inputs from the diagonal of an undamped Gram matrix.
pub fn root(diagonal: &[f64]) -> Vec<f32> {
    diagonal.iter().map(|h| h.max(0.0).sqrt() as f32).collect()
}

/// `(w_ij n_j)^2` of every weight, `[rows, cols]`: what leaving it out costs, as far as the diagonal of H tells.
pub fn losses(w: &Weights<'_>, evidence: &Evidence) -> Vec<f64> {
    let norms = norms(evidence);
    let loss = |(w, n): (&f32, &f32)| (f64::from(*w) * f64::from(*n)).powi(2);
    w.data.iter().zip(norms.iter().cycle()).map(loss).collect()
}

/// The score of every weight, `[rows, cols]`; `norms` are those of the inputs.
pub fn of_weights(score: Score, w: &Weights<'_>, norms: &[f32]) -> Vec<f32> {
    let magnitudes = w.data.iter().map(|w| w.abs());
    let input = norms.iter().cycle();
    match score {
        Score::Magnitude => magnitudes.collect(),
        Score::Wanda => magnitudes.zip(input).map(|(w, n)| w * n).collect(),
        Score::Ria => {
            let (rows, cols) = magnitude_sums(w);
            let share = |w: f32, sum: f64| if sum > 0.0 { f64::from(w) / sum } else { 0.0 };
            let relative = magnitudes
                .enumerate()
                .map(|(at, m)| (share(m, rows[at / w.cols]) + share(m, cols[at % w.cols])) as f32);
            relative.zip(input).map(|(r, n)| r * n.sqrt()).collect()
        }
    }
}

/// Sums of magnitudes of each row, and of each column.
fn magnitude_sums(w: &Weights<'_>) -> (Vec<f64>, Vec<f64>) {
    let (mut rows, mut cols) = (vec![0.0; w.rows], vec![0.0; w.cols]);
    for (at, value) in w.data.iter().enumerate() {
        let magnitude = f64::from(value.abs());
        rows[at / w.cols] += magnitude;
        cols[at % w.cols] += magnitude;
    }
    (rows, cols)
}

/// The score of every block of `r` rows by `c` columns, `[strip][block of the strip]`; blocks at the
/// ends may be smaller.
///
/// Errors: the brain surgeon's score where the Gram matrix cannot be factored.
pub fn of_blocks(
    score: BlockScore,
    w: &Weights<'_>,
    evidence: &Evidence,
    (r, c): (usize, usize),
) -> Result<Vec<f64>> {
    let norms = norms(evidence);
    let inner = match score {
        BlockScore::BrainSurgeon => inverses(&evidence.factored()?.u, c),
        _ => Vec::new(),
    };
    let mut all = Vec::with_capacity(w.rows.div_ceil(r) * w.cols.div_ceil(c));
    for top in (0..w.rows).step_by(r) {
        for left in (0..w.cols).step_by(c) {
            let columns = left..(left + c).min(w.cols);
            let rows = top..(top + r).min(w.rows);
            let count = (rows.len() * columns.len()) as f64;
            let pieces = rows.map(|row| &w.data[row * w.cols..][columns.clone()]);
            let weighted = |row: &[f32]| -> Vec<f64> {
                row.iter()
                    .zip(&norms[columns.clone()])
                    .map(|(w, n)| f64::from(w.abs()) * f64::from(*n))
                    .collect()
            };
            all.push(match score {
                BlockScore::MeanMagnitude => pieces.flat_map(weighted).sum::<f64>() / count,
                BlockScore::Diagonal => pieces.flat_map(weighted).map(|v| v * v).sum(),
                BlockScore::BrainSurgeon => pieces.map(|row| quadratic(row, &inner[left / c])).sum(),
            });
        }
    }
    Ok(all)
}

/// `[(H^-1)_BB]^-1` for the columns of each block, row-major.
//
// H^-1 = U^T U in the sweep's order: (H^-1)_ij = sum_p U_p,i' U_p,j' over p up to the earlier of
// the two places i', j' at which the columns stand there.
fn inverses(u: &InverseFactor, c: usize) -> Vec<Vec<f64>> {
    let mut place = vec![0; u.size()];
    (0..u.size()).for_each(|position| place[u.order().original(position)] = position);
    let entry = |i: usize, j: usize| -> f64 {
        u.column(place[i]).iter().zip(u.column(place[j])).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let block = |left: usize| {
        let columns = left..(left + c).min(u.size());
        let inverse: Vec<f64> = columns
            .clone()
            .flat_map(|i| columns.clone().map(move |j| (i, j)))
            .map(|(i, j)| entry(i, j))
            .collect();
        invert(&inverse, columns.len())
    };
    (0..u.size()).step_by(c).map(block).collect()
}

/// `w M w^T`.
fn quadratic(w: &[f32], m: &[f64]) -> f64 {
    let row = |(i, a): (usize, &f32)| {
        let sum: f64 = w.iter().zip(&m[i * w.len()..]).map(|(b, m)| f64::from(*b) * m).sum();
        f64::from(*a) * sum
    };
    w.iter().enumerate().map(row).sum()
}
