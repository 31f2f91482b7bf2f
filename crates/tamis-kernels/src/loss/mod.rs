//! Losses over rows of logits, and their gradients in place: cross-entropy with a target
//! (`target`), and the divergence from a teacher known by its largest probabilities
//! (`divergence`). Knows no batch and no mean: the caller's `scale` holds them.
//!
//! Rows are tasks, and sums are those of `softmax`: f32 over a block, then f64.

mod divergence;
pub mod scalar;
mod target;

pub use divergence::{Teacher, Weight, divergence};
pub use target::cross_entropy;

use crate::pool::{Cpu, Disjoint};

/// Calls `task(i, logits_i, losses_i)` for the row `i` of every loss.
fn each_row(
    cpu: &Cpu,
    logits: &mut [f32],
    losses: &mut [f32],
    task: &(dyn Fn(usize, &mut [f32], &mut f32) + Sync),
) {
    let m = losses.len();
    if m == 0 {
        return assert!(logits.is_empty(), "{} logits without a loss", logits.len());
    }
    assert!(logits.len() >= m && logits.len().is_multiple_of(m), "{} logits are not {m} rows", logits.len());
    let losses = Disjoint::new(losses);
    let width = logits.len() / m;
    cpu.pool.run_chunks(logits, width, &|i, row| {
        // SAFETY: one loss a row, one task a row.
        let loss = unsafe { losses.slice(i, 1) };
        task(i, row, &mut loss[0]);
    });
}

#[cfg(test)]
mod tests;
