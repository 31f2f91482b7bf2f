//! Linears pruned on trial, and how far a model with them lies from the dense one. Knows no shares.
//!
//! The judge is the divergence from the dense model: unlike a difference of perplexities it is never
//! negative, and it tells a small damage from none on few tokens.

use std::num::NonZeroUsize;

use super::super::permute;
use super::super::run::{Job, prepared};
use super::Prepass;
use crate::calibrate::Walk;
use crate::compress::{Evidence, TensorPlan, Threads, Weights, compress_tensor};
use crate::error::{Error, Kind, Result};
use crate::model::block::{Block, Pass, Role};
use crate::model::decoder::Crown;
use crate::model::{Config, Weight, logits};
use crate::ops::Ops;
use crate::units::{Alpha, Sparsity};

/// Rows of logits that are held at once, twice.
pub(in crate::job) const ROWS: usize = 64;

/// One row in so many is judged: neighbours say nearly the same, and a row costs a pass through the head.
const ASKED: usize = 4;

/// A linear on trial: its role, which of several shares it lost, what is left.
pub(super) type Trial = (Role, usize, Weight);

impl Prepass<'_, '_, '_> {
    /// The linears of a block pruned at each of `shares`, at once, while the walk goes through the dense block. The
    /// block is left as dense as it was, in the order in which the trials are.
    pub(super) fn trials(
        &self,
        walk: &mut Walk<'_>,
        (index, block): (usize, &mut Block),
        shares: &dyn Fn(Role) -> Vec<f64>,
    ) -> Result<Vec<Trial>> {
        let config = self.job.checkpoint.config();
        let mut trials = Vec::new();
        walk.compress(block, &mut |roles, gram, block| {
            let mut shared = Vec::new();
            permute::sort(block, (config, index), self.plans, (roles, &gram))?;
            for &role in roles {
                let name = role.name(config, index);
                let Some(linear) = block.linear(role) else { continue };
                for (at, share) in shares(role).into_iter().enumerate() {
                    let plan = on_trial(self.plans.plan(&name), share)?;
                    let evidence = prepared(&mut shared, &gram, &plan);
                    let weight = self.pruned(&linear.weight, evidence, &plan);
                    trials.push((role, at, weight.map_err(|e| e.tensor(&name))?));
                }
            }
            Ok(())
        })?;
        Ok(trials)
    }

    /// At 16 bits: a trial is multiplied once or twice, and needs no layout of its own.
    fn pruned(&self, weight: &Weight, evidence: &Evidence, plan: &TensorPlan) -> Result<Weight> {
        let data = weight.to_f32(Alpha::ONE);
        let w = Weights { rows: weight.rows(), cols: weight.cols(), data: &data };
        let pruned = compress_tensor(&w, Some(evidence), plan, self.job.threads)?.weight;
        Ok(Weight::Half(pruned.to_half()?))
    }
}

/// The plan of a linear, but at this share and at once.
fn on_trial(plan: &TensorPlan, share: f64) -> Result<TensorPlan> {
    let mut plan = plan.clone();
    plan.pruning.sparsity = Some(Sparsity::new(share)?);
    plan.pruning.rounds = NonZeroUsize::MIN;
    Ok(plan)
}

/// A block with the trials of number `at` of these roles in place.
pub(super) fn with_trials(block: &Block, trials: &[Trial], roles: &[Role], at: usize) -> Block {
    let mut changed = block.clone();
    for (role, number, weight) in trials {
        if *number == at
            && roles.contains(role)
            && let Some(linear) = changed.linear_mut(*role)
        {
            linear.weight = weight.clone();
        }
    }
    changed
}

/// What the dense model says about the held-out windows, to compare others with.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    ops: &'a dyn Ops,
    config: &'a Config,
    crown: &'a Crown,
    threads: Threads,
    dense: Vec<f32>, // [rows asked, hidden], before the crown
}

impl<'a> Judge<'a> {
    /// `dense` stands behind the last block of the dense model.
    pub(super) fn new(job: &'a Job<'_>, crown: &'a Crown, dense: &Walk<'_>) -> Self {
        let config = job.checkpoint.config();
        let dense = asked(dense.stream(), config.hidden);
        Self { ops: job.ops, config, crown, threads: job.threads, dense }
    }

    /// Mean divergence of the dense model from the one whose windows stand behind its last block.
    pub(super) fn divergence(&self, walk: &Walk<'_>) -> Result<f64> {
        let other = asked(walk.stream(), self.config.hidden);
        let (mut p, mut q) = (Vec::new(), Vec::new());
        let pass = Pass { ops: self.ops, config: self.config, rotations: &[], alpha: Alpha::ONE };
        let (mut sum, vocab) = (0.0, self.config.vocab);
        let chunk = ROWS * self.config.hidden;
        for (dense, other) in self.dense.chunks(chunk).zip(other.chunks(chunk)) {
            self.crown.logits(pass, dense, &mut p);
            self.crown.logits(pass, other, &mut q);
            let rows = self.threads.map(p.len() / vocab, |row| {
                logits::divergence(&p[row * vocab..][..vocab], &q[row * vocab..][..vocab])
            });
            for row in rows {
                let broken = || Error::new(Kind::NonFinite, "a model pruned on trial gives NaN or Inf");
                sum += row.ok_or_else(broken)?;
            }
        }
        Ok(sum * self.config.hidden as f64 / self.dense.len() as f64)
    }
}

/// The rows of a stream that are judged.
fn asked(stream: &[f32], hidden: usize) -> Vec<f32> {
    stream.chunks_exact(hidden).skip(ASKED - 1).step_by(ASKED).flatten().copied().collect()
}
