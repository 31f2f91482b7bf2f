//! From the last residual stream to a loss, and back: final norm, head and loss a few rows at a time,
//! because a row of logits is as wide as the vocabulary. Knows no blocks and no text.

use super::feature::Features;
use super::gradient::Pass;
use super::parameters::Parameters;
use super::plan::Plan;
use crate::model::{Decoder, Linear};
use crate::ops::backward::{DivergenceWeight, Normed, Teacher};
use crate::ops::{Backward, Buffer, each_piece};
use crate::units::Alpha;

/// Rows whose logits are in memory at once.
pub const ROWS: usize = 256;

/// What is known of a teacher's opinion on every row.
#[derive(Debug, Clone, Default)]
pub struct Opinions {
    /// Its likeliest tokens, `[m, top]`.
    pub ids: Vec<u32>,
    /// Their log-probabilities.
    pub log_probs: Vec<f32>,
    /// Tokens a row.
    pub top: usize,
}

/// What the logits are compared with. Losses are means over all rows of a step; a factor of zero
/// leaves a part out.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    /// The token that follows, `[m]`.
    pub targets: &'a [u32],
    /// Factor on the cross-entropy with it.
    pub next_token: f32,
    /// A teacher.
    pub teacher: Option<&'a Opinions>,
    /// Factor on the divergence from the teacher.
    pub distillation: f32,
    /// What divides the logits of both in the divergence.
    pub temperature: f32,
    /// What the outputs of blocks are compared with; the head knows nothing of it.
    pub features: Option<Features<'a>>,
    /// Rows of the whole step: what sums are divided by.
    pub rows: usize,
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// Cross-entropy with the next token.
    pub next_token: f64,
    /// Divergence from the teacher.
    pub divergence: f64,
    /// Difference of the blocks' outputs from the teacher's.
    pub feature: f64,
}

impl Losses {
    /// All of them, for sums.
    pub fn all(self) -> [f64; 3] {
        [self.next_token, self.divergence, self.feature]
    }
}

impl From<[f64; 3]> for Losses {
    fn from([next_token, divergence, feature]: [f64; 3]) -> Self {
        Self { next_token, divergence, feature }
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.next_token += other.next_token;
        self.divergence += other.divergence;
        self.feature += other.feature;
    }
}

/// The losses of the last residual stream `x [m, hidden]`, and its gradient.
pub fn loss(
    pass: Pass<'_>,
    decoder: &Decoder,
    plan: &Plan,
    to: &mut Parameters,
    (x, goal): (&[f32], Goal<'_>),
) -> (Losses, Buffer) {
    let crown = decoder.crown();
    let normed = crown.final_norm().map(|norm| pass.norm(norm, x));
    let h = normed.as_deref().unwrap_or(x);
    let projected = crown.project_out().map(|project| pass.product(project, h));
    let seen = projected.as_deref().unwrap_or(h);
    let width = pass.config.embedding_width;
    let mut dh = pass.buffers.take(seen.len());
    let mut losses = Losses::default();
    for (index, (h, dh)) in seen.chunks(ROWS * width).zip(dh.chunks_mut(ROWS * width)).enumerate() {
        let rows = index * ROWS..index * ROWS + h.len() / width;
        let (part, dlogits) = chunk(pass, crown.head(), h, (rows, goal));
        losses += part;
        pass.ops.input_gradient(&dlogits, crown.head(), Alpha::ONE, dh);
        if let Some(id) = if pass.config.tied { plan.embedding } else { plan.head } {
            pass.ops.weight_gradient((&dlogits, pass.config.vocab), (h, width), to.grads(id));
        }
    }
    if let Some(project) = crown.project_out() {
        dh = pass.product_back(project, &dh);
    }
    if let Some(norm) = crown.final_norm() {
        dh = pass.norm_back((norm, plan.final_norm), to, Normed { x, dy: &dh });
    }
    (losses, dh)
}

/// Losses of some rows, and the gradients of their logits.
fn chunk(
    pass: Pass<'_>,
    head: &Linear,
    h: &[f32],
    (rows, goal): (std::ops::Range<usize>, Goal<'_>),
) -> (Losses, Buffer) {
    let mut logits = pass.product(head, h);
    if let Some(cap) = pass.config.logit_softcap {
        logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
    }
    // d cap tanh(l / cap) / dl = 1 - tanh^2.
    let slopes: Option<Vec<f32>> =
        pass.config.logit_softcap.map(|cap| logits.iter().map(|l| 1.0 - (l / cap).powi(2)).collect());
    let share = 1.0 / goal.rows as f32;
    let mut losses = vec![0.0; rows.len()];
    let mut sums = Losses::default();
    let total = |losses: &[f32]| losses.iter().map(|l| f64::from(*l)).sum::<f64>();
    let distilled = goal.teacher.filter(|_| goal.distillation > 0.0).map(|known| {
        let mut logits = pass.buffers.copy(&logits);
        let places = rows.start * known.top..rows.end * known.top;
        let teacher =
            Teacher { ids: &known.ids[places.clone()], log_probs: &known.log_probs[places], top: known.top };
        // The gradient falls like 1 / T^2 where the logits are small beside T (Hinton 2015, arXiv 1503.02531).
        let scale = goal.distillation * share * goal.temperature * goal.temperature;
        let weight = DivergenceWeight { temperature: goal.temperature, scale };
        pass.ops.divergence(&mut logits, teacher, weight, &mut losses);
        sums.divergence = total(&losses);
        logits
    });
    pass.ops.cross_entropy(&mut logits, &goal.targets[rows], goal.next_token * share, &mut losses);
    sums.next_token = total(&losses);
    if let Some(distilled) = distilled {
        pass.ops.add(&mut logits, &distilled);
    }
    if let Some(slopes) = slopes {
        logits.iter_mut().zip(&slopes).for_each(|(l, slope)| *l *= slope);
    }
    (sums, logits)
}

/// What a teacher thinks about every row of its last residual stream: its `top` likeliest tokens.
pub fn opinions(
    (ops, teacher): (&dyn Backward, &Decoder),
    x: &[f32],
    (top, temperature): (usize, f32),
) -> Opinions {
    let config = teacher.config();
    let top = top.min(config.vocab);
    let mut known = Opinions { top, ..Opinions::default() };
    let mut logits = Vec::new();
    for x in x.chunks(ROWS * config.hidden) {
        teacher.logits(ops, x, Alpha::ONE, &mut logits);
        let mut said = vec![(0u32, 0.0f32); x.len() / config.hidden * top];
        each_piece(ops, &mut logits, config.vocab, &|_, row| row.iter_mut().for_each(|l| *l /= temperature));
        each_piece(ops, &mut said, top, &|i, said| {
            likeliest(&logits[i * config.vocab..][..config.vocab], said)
        });
        known.ids.extend(said.iter().map(|(id, _)| id));
        known.log_probs.extend(said.iter().map(|(_, log_prob)| log_prob));
    }
    known
}

/// The likeliest tokens of a row of logits, as many as `said` has room for, with their log-probabilities; in
/// the order of their numbers. Of equal ones the first.
fn likeliest(logits: &[f32], said: &mut [(u32, f32)]) {
    let all = crate::model::logits::log_sum_exp(logits).unwrap_or(f64::NAN);
    let top = said.len();
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(4 * top);
    // Below what the top has already, nothing is looked at: few tokens ever get into `found`.
    let mut bound = f32::NEG_INFINITY;
    for (id, logit) in (0..).zip(logits) {
        if *logit > bound || found.len() < top {
            found.push((id, *logit));
        }
        if found.len() == 4 * top {
            bound = cut(&mut found, top);
        }
    }
    cut(&mut found, top);
    found.sort_unstable_by_key(|(id, _)| *id);
    for (said, (id, logit)) in said.iter_mut().zip(found) {
        *said = (id, (f64::from(logit) - all) as f32);
    }
}

/// Leaves the `top` largest; gives the least of them.
fn cut(found: &mut Vec<(u32, f32)>, top: usize) -> f32 {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let least = found.select_nth_unstable_by(top - 1, order).1.1;
    found.truncate(top);
    least
}

/// Adds the gradient of the first residual stream to that of the embedding, row by row.
pub fn embedding_back(pass: Pass<'_>, (tokens, dx): (&[u32], &[f32]), grads: &mut [f32]) {
    let width = pass.config.embedding_width;
    for (token, dx) in tokens.iter().zip(dx.chunks_exact(width)) {
        let row = &mut grads[*token as usize * width..][..width];
        row.iter_mut().zip(dx).for_each(|(row, dx)| *row += dx * pass.config.embedding_scale);
    }
}

/// The cross-entropy of every row of the last residual stream with its target.
pub(super) fn row_losses((ops, decoder): (&dyn Backward, &Decoder), x: &[f32], targets: &[u32]) -> Vec<f32> {
    let (mut logits, mut losses) = (Vec::new(), vec![0.0; targets.len()]);
    let hidden = decoder.config().hidden;
    let rows = x.chunks(ROWS * hidden).zip(targets.chunks(ROWS)).zip(losses.chunks_mut(ROWS));
    for ((x, targets), losses) in rows {
        decoder.logits(ops, x, Alpha::ONE, &mut logits);
        ops.cross_entropy(&mut logits, targets, 0.0, losses);
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_are_those_of_a_whole_sort() {
        for (vocab, top) in [(1, 1), (5, 5), (40, 1), (300, 64), (5000, 64)] {
            // Few values, so that many are equal; and an order that keeps rising.
            let rows = [
                (0..vocab).map(|i| ((i * 7919) % 97) as f32 / 9.0).collect::<Vec<_>>(),
                (0..vocab).map(|i| i as f32).collect(),
            ];
            for logits in rows {
                let mut order: Vec<u32> = (0..vocab as u32).collect();
                order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
                order.truncate(top);
                order.sort_unstable();
                let mut said = vec![(0, 0.0); top];
                likeliest(&logits, &mut said);
                assert_eq!(said.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order);
                let all = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
                if all.is_finite() {
                    let near = |(id, p): &(u32, f32)| {
                        (f64::from(logits[*id as usize]) - all - f64::from(*p)).abs() < 1e-5
                    };
                    assert!(said.iter().all(near));
                }
            }
        }
    }
}
