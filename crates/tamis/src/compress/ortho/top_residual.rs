//! The largest residuals, stored as they are: what most dense-and-sparse tools do, kept
//! as a control for tables. It knows no correlation between inputs.
//!
//! SqueezeLLM (Kim 2023, arXiv 2306.07629) takes the largest values likewise.

use super::SparseRow;
use super::select::top_entries;
use crate::compress::lanes::Weights;
use crate::compress::threads::Threads;

/// The `budget` entries of the residual `r` with the largest `h_j r_j^2`; all ones for
/// `h` gives plain magnitude.
pub fn stream(r: &Weights<'_>, h: &[f32], budget: usize, threads: Threads) -> Vec<SparseRow> {
    let row = |at: usize| &r.data[at * r.cols..][..r.cols];
    let score = |at: usize, out: &mut [f32]| {
        out.iter_mut().zip(row(at).iter().zip(h)).for_each(|(score, (r, h))| *score = h * r * r);
    };
    let chosen = top_entries((r.rows, r.cols), budget, &score, threads);
    let value = |at: usize, columns: Vec<u32>| {
        let values = columns.iter().map(|&j| row(at)[j as usize]).collect();
        (columns, values)
    };
    chosen.into_iter().enumerate().map(|(at, columns)| value(at, columns)).collect()
}
