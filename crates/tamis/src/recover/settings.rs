//! Everything that decides the bytes of a training run besides model and text. Knows neither.
//!
//! AdamW: Loshchilov 2017, arXiv 1711.05101. Cosine: Loshchilov 2016, arXiv 1608.03983.

use serde::{Deserialize, Serialize};

use super::trainable::{Extras, Method, Spec};
use crate::error::{Error, Result};
use crate::ops::backward::AdamStep;

/// Most sequences of a step, and most tokens of a sequence.
const MOST_TOGETHER: usize = 1 << 20;

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine, to zero.
    Cosine,
    /// A line, to zero.
    Linear,
    /// Not at all.
    Constant,
}

/// The optimiser's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    /// Highest learning rate.
    pub lr: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// Steps in which it rises from zero.
    pub warmup: usize,
    /// Decay of the mean gradient, and of the mean square.
    pub betas: (f32, f32),
    /// What is added to the root of the mean square.
    pub eps: f32,
    /// Decoupled decay of matrices.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0 for none.
    pub clip: f32,
}

impl Optimiser {
    /// The learning rate of step `step` of `steps`, counted from 1.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        if step <= self.warmup {
            return self.lr * step as f64 / self.warmup as f64;
        }
        let left = 1.0 - (step - self.warmup) as f64 / (steps.saturating_sub(self.warmup) + 1) as f64;
        self.lr
            * match self.schedule {
                Schedule::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * left).cos()),
                Schedule::Linear => left,
                Schedule::Constant => 1.0,
            }
    }

    /// Refuses numbers that have no meaning.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: &str, next: &str| Err(Error::usage(problem).next(next.to_owned()));
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return refuse("a learning rate that is not above 0", "try --lr 1e-4");
        }
        let bounds = [self.clip, self.weight_decay];
        if !bounds.iter().all(|bound| *bound >= 0.0 && bound.is_finite()) {
            return refuse("clip and weight decay must be at least 0", "try --clip 1 --weight-decay 0");
        }
        Ok(())
    }

    /// The step of this number, counted from 1, at `rate`, with gradients of norm `norm` clipped.
    pub fn adam(&self, (step, rate): (usize, f64), norm: f64) -> AdamStep {
        let clip = f64::from(self.clip);
        AdamStep {
            lr: rate as f32,
            beta1: self.betas.0,
            beta2: self.betas.1,
            eps: self.eps,
            weight_decay: self.weight_decay,
            gradient_scale: if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 },
            step: step as u32,
        }
    }
}

/// What the model learns from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Factor on the cross-entropy with the next token.
    pub next_token: f32,
    /// Factor on the divergence from the teacher.
    pub distillation: f32,
    /// Factor on the difference of the blocks' outputs from the teacher's.
    pub feature: f32,
    /// What divides the logits of both in the divergence.
    pub temperature: f32,
    /// Tokens of the teacher's opinion that are kept.
    pub top: usize,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What is trained.
    pub spec: Spec,
    /// What it learns from.
    pub losses: Losses,
    /// How it steps.
    pub optimiser: Optimiser,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Sequences of the order that earlier runs have learnt from.
    pub skip: usize,
    /// Sequences a step.
    pub batch: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Share of the inputs of adapters that is set to zero.
    pub dropout: f32,
    /// Whether adapters begin as the residual against the teacher.
    pub residual: bool,
    /// Steps between two validations, which are also saved.
    pub every: usize,
    /// Best validations whose states are kept; the best is the result.
    pub keep: usize,
    /// Windows of each validation text.
    pub windows: usize,
    /// Validations without improvement after which the run ends; none for never.
    pub patience: Option<usize>,
    /// Least fall of the validation loss that counts as an improvement.
    pub improvement: f64,
    /// Order of sequences, noise, first values of adapters.
    pub seed: u64,
    /// Whether only the inputs of blocks are kept for the way back.
    pub recompute: bool,
}

impl Settings {
    /// Refuses what has no meaning.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: &str, next: &str| Err(Error::usage(problem).next(next.to_owned()));
        if self.keep == 0 {
            return refuse("no state would be kept, and so there would be no result", "try --keep-best 1");
        }
        if self.steps == 0 || self.batch == 0 || self.length < 2 || self.every == 0 || self.windows == 0 {
            return refuse("steps, batch, every and windows must be at least 1, and length 2", "change them");
        }
        if self.steps > u32::MAX as usize || self.batch > MOST_TOGETHER || self.length > MOST_TOGETHER {
            let problem = format!("more than 2^32 - 1 steps, or a batch or length above {MOST_TOGETHER}");
            return Err(Error::usage(problem).next("choose smaller numbers"));
        }
        self.optimiser.check()?;
        let Extras { norms, embedding } = self.spec.extras;
        if self.spec.method == Method::Lora && (norms || embedding) {
            return refuse(
                "an adapter holds low-rank additions alone",
                "leave --train out, or choose masklora",
            );
        }
        if self.residual && self.spec.method != Method::Lora {
            return refuse("only additions of the method lora begin as a residual", "leave --residual out");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("dropout must lie in [0, 1)", "try --dropout 0.05");
        }
        let Losses { next_token, distillation, feature, temperature, top } = self.losses;
        let factors = [next_token, distillation, feature];
        if !(factors.iter().all(|f| *f >= 0.0) && factors.iter().sum::<f32>() > 0.0) {
            return refuse(
                "no loss is left to learn from",
                "give one of them a factor above 0, and none below",
            );
        }
        if !(temperature > 0.0 && top > 0) {
            return refuse(
                "a temperature above 0 and at least one token of the teacher are needed",
                "change them",
            );
        }
        if !(self.improvement >= 0.0 && self.improvement.is_finite()) {
            return refuse("the least improvement must be at least 0", "try --improvement 0.01");
        }
        Ok(())
    }

    /// Sequences that go through the model together: about 2048 tokens at once.
    pub fn together(&self) -> usize {
        (2048 / self.length).clamp(1, self.batch.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let mut optimiser = Optimiser {
            lr: 1.0,
            schedule: Schedule::Linear,
            warmup: 4,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 0.0,
        };
        assert_eq!((optimiser.rate(1, 10), optimiser.rate(4, 10)), (0.25, 1.0));
        assert!((optimiser.rate(10, 10) - 1.0 / 7.0).abs() < 1e-12);
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            optimiser.schedule = schedule;
            let rates: Vec<f64> = (4..=10).map(|step| optimiser.rate(step, 10)).collect();
            assert!(rates.windows(2).all(|r| r[0] > r[1]) && rates[6] > 0.0, "{rates:?}");
        }
        optimiser.schedule = Schedule::Constant;
        assert_eq!(optimiser.rate(9, 10), 1.0);
        optimiser.warmup = 0;
        assert_eq!(optimiser.rate(1, 10), 1.0);
    }
}
