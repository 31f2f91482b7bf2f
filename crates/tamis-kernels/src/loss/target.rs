//! Cross-entropy with one right answer a row: `loss = -ln q_t`, `q = softmax(logits)`, whose
//! gradient is `q_j - [j = t]`.

use super::each_row;
use crate::pool::Cpu;
use crate::softmax::{exp_sum_in_place, max};

/// `losses[i] = -ln softmax(logits_i)[targets[i]]`; the rows of `logits [m, n]` become
/// `scale (softmax - onehot)`. `m = losses.len()`.
///
/// # Panics
/// If `logits` is not `m` rows, `targets` is not `m` numbers, or one is not below `n`.
pub fn cross_entropy(cpu: &Cpu, logits: &mut [f32], targets: &[u32], scale: f32, losses: &mut [f32]) {
    assert_eq!(targets.len(), losses.len());
    each_row(cpu, logits, losses, &|i, row, loss| {
        let target = targets[i] as usize;
        assert!(target < row.len(), "target {target} of {} logits", row.len());
        let top = max(cpu.isa, row);
        let right = row[target];
        let sum = exp_sum_in_place(cpu.isa, row, top);
        *loss = (f64::from(top) + sum.ln() - f64::from(right)) as f32;
        let share = (f64::from(scale) / sum) as f32;
        row.iter_mut().for_each(|x| *x *= share);
        row[target] -= scale;
    });
}
