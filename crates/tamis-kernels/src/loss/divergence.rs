//! The divergence `sum_c p_c (ln p_c - ln q_c)` of a student q from a teacher p that is known
//! by its K largest log-probabilities: the classes are these K and one more, the tail, which
//! holds the rest of either's mass.
//!
//! Let `u = z / T` for the student's logits z, `A` the K ids, `s(j) = e^{u_j} / sum_{i not in A}
//! e^{u_i}` the student's shares within its tail, `q_t` its tail, `p_t = max(0, 1 - sum_A p)`,
//! and `P = sum_A p + p_t`, which is 1 up to rounding. As `ln q_k = u_k - lse(u)` and `ln q_t =
//! lse_{not A}(u) - lse(u)`, the loss is `const - sum_A p_k u_k - p_t lse_{not A}(u) + P lse(u)`,
//! and its gradient
//! `dz_j = (P q_j - p_j) / T` for j in A, `dz_j = s(j) (P q_t - p_t) / T` for the others.
//!
//! Nothing is divided by `q_t`: the shares come from the tail's own largest logit, so a tail
//! that is far below the rest keeps its gradient. A tail without logits, or with none above
//! minus infinity, is no class.

use super::each_row;
use crate::pool::Cpu;
use crate::softmax::{exp_sum_in_place, max};

/// The largest probabilities of a teacher, `top` a row.
#[derive(Debug, Clone, Copy)]
pub struct Teacher<'a> {
    /// Their places `[m, top]`, which differ within a row.
    pub ids: &'a [u32],
    /// Their logarithms `[m, top]`, at the temperature of the divergence.
    pub log_probs: &'a [f32],
    /// Probabilities in a row.
    pub top: usize,
}

/// How a divergence is taken.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// What divides the student's logits; above 0.
    pub temperature: f32,
    /// Factor on the gradient, not on the loss.
    pub scale: f32,
}

/// `losses[i]` is the divergence of row `i` of `logits [m, n]` from the teacher's row, in nats;
/// the rows of `logits` become `scale` times its gradient. `m = losses.len()`.
///
/// # Panics
/// If shapes do not agree, an id is not below `n` or stands twice in a row, or the logit of
/// one is minus infinity.
pub fn divergence(cpu: &Cpu, logits: &mut [f32], teacher: Teacher<'_>, weight: Weight, losses: &mut [f32]) {
    let top = teacher.top;
    assert_eq!(teacher.ids.len(), losses.len() * top);
    assert_eq!(teacher.log_probs.len(), losses.len() * top);
    assert!(weight.temperature > 0.0, "a temperature of {}", weight.temperature);
    each_row(cpu, logits, losses, &|i, row, loss| {
        let part = i * top..(i + 1) * top;
        let teacher = Teacher { ids: &teacher.ids[part.clone()], log_probs: &teacher.log_probs[part], top };
        *loss = divergence_row(cpu, row, teacher, weight);
    });
}

fn divergence_row(cpu: &Cpu, row: &mut [f32], teacher: Teacher<'_>, weight: Weight) -> f32 {
    let inverse = 1.0 / weight.temperature;
    row.iter_mut().for_each(|z| *z *= inverse);
    // The K logits are taken out; what stays is the tail.
    let take = |&id: &u32| std::mem::replace(&mut row[id as usize], f32::NEG_INFINITY);
    let known: Vec<f32> = teacher.ids.iter().map(take).collect();
    let possible = known.iter().all(|&u| u != f32::NEG_INFINITY);
    assert!(possible, "an id stands twice in a row of the teacher, or its logit is minus infinity");
    let tail_top = max(cpu.isa, row);
    let has_tail = tail_top > f32::NEG_INFINITY;
    let tail_sum = if has_tail { exp_sum_in_place(cpu.isa, row, tail_top) } else { 0.0 };
    let tail = f64::from(tail_top) + tail_sum.ln();
    // lse(u), over the K and the tail.
    let highest = known.iter().fold(tail, |m, &u| m.max(f64::from(u)));
    let all: f64 = known.iter().map(|&u| (f64::from(u) - highest).exp()).sum();
    let all = highest + (all + (tail - highest).exp()).ln();

    let p = |k: usize| f64::from(teacher.log_probs[k]).exp();
    let top_mass: f64 = (0..teacher.top).map(p).sum();
    let p_tail = if has_tail { (1.0 - top_mass).max(0.0) } else { 0.0 };
    let mass = top_mass + p_tail;
    let mut loss = if p_tail > 0.0 { p_tail * (p_tail.ln() - (tail - all)) } else { 0.0 };
    let scale = f64::from(weight.scale * inverse);
    match has_tail {
        true => {
            let share = (scale * (mass * (tail - all).exp() - p_tail) / tail_sum) as f32;
            row.iter_mut().for_each(|e| *e *= share);
        }
        false => row.fill(0.0),
    }
    for (k, (&id, &u)) in teacher.ids.iter().zip(&known).enumerate() {
        let (p, log_q) = (p(k), f64::from(u) - all);
        if p > 0.0 {
            loss += p * (f64::from(teacher.log_probs[k]) - log_q);
        }
        row[id as usize] = (scale * (mass * log_q.exp() - p)) as f32;
    }
    loss as f32
}
