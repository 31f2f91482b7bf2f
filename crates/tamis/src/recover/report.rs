//! What a training run tells: every validation as a point, and the account at its end. Knows no model.

use serde::{Deserialize, Serialize};

/// One validation. Losses are means a token, in nats; their exponentials are perplexities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Steps done.
    pub step: usize,
    /// Sequences learnt from, over the sequences of the text.
    pub epoch: f64,
    /// Loss on the validation text.
    pub valid: f64,
    /// Loss on the second text, which nothing is chosen by.
    pub also: Option<f64>,
    /// Mean training loss since the last validation; none before the first step.
    pub train: Option<f64>,
    /// Mean divergence from the teacher since then.
    pub divergence: Option<f64>,
    /// Mean difference of the blocks' outputs from the teacher's since then, relative to them.
    pub feature: Option<f64>,
    /// Learning rate of the last step.
    pub rate: f64,
    /// Norm of the gradients of the last step.
    pub grad_norm: f64,
    /// Tokens learnt from, a second, since the last validation; none before the first step.
    pub tokens_per_second: Option<f64>,
    /// Seconds of training, without validations, over all runs.
    pub seconds: f64,
}

impl Point {
    /// The same in a run that had done `steps` in `seconds` before.
    pub fn after(&self, steps: usize, seconds: f64) -> Self {
        Self { step: self.step + steps, seconds: self.seconds + seconds, ..self.clone() }
    }

    /// Whether all its numbers can have been measured.
    pub(super) fn is_sane(&self) -> bool {
        let Self { epoch, valid, rate, grad_norm, seconds, .. } = *self;
        let maybe = [self.also, self.train, self.divergence, self.feature, self.tokens_per_second];
        let finite = maybe.iter().flatten().chain(&[valid, rate]).all(|number| number.is_finite());
        let positive = [epoch, grad_norm, seconds, rate].iter().all(|n| *n >= 0.0 && n.is_finite());
        finite && positive
    }

    /// Perplexity on the validation text.
    pub fn perplexity(&self) -> f64 {
        self.valid.exp()
    }
}

/// The account of a run: perplexities dense, pruned, best and final, and what was won back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Perplexity of the dense teacher; none without one.
    pub dense_perplexity: Option<f64>,
    /// Of the dense teacher on the second text.
    pub dense_also: Option<f64>,
    /// Perplexity before the first step.
    pub before: f64,
    /// After the last step.
    pub after: f64,
    /// The best, which is what was saved.
    pub best: f64,
    /// The step that it belongs to.
    pub best_step: usize,
    /// Of the model as it was saved and read again.
    pub saved: f64,
    /// The same three on the second text, as `[before, after, saved]`.
    pub also: Option<[f64; 3]>,
    /// `(before - saved) / (before - dense)`; none without a teacher that is better.
    pub recovered_fraction: Option<f64>,
    /// Share of the perplexity that is gone, in percent: `100 (saved / before - 1)`.
    pub trend_percent: f64,
    /// What is still missing: `saved - dense`.
    pub gap: Option<f64>,
    /// Steps done.
    pub steps: usize,
    /// Tokens learnt from.
    pub tokens: u64,
    /// Tokens a second, validations not counted.
    pub tokens_per_second: f64,
    /// Most memory at any moment.
    pub peak_memory_bytes: u64,
    /// Memory before the model was read.
    pub begin_memory_bytes: u64,
    /// What was foreseen.
    pub predicted_memory_bytes: u64,
    /// Weights outside the masks that are not zero; anything but 0 is an error of the program.
    pub mask_violations: usize,
    /// Steps that were passed over because numbers were not finite.
    pub skipped_steps: usize,
    /// Numbers that were trained.
    pub trained_parameters: usize,
    /// What every stage of a run in stages did; `before`, `after`, `best` and `saved` above are the last one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageAccount>,
    /// What else was kept, the better first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptAccount>,
    /// All validations.
    pub history: Vec<Point>,
}

/// A state that was kept beside the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptAccount {
    /// Its step.
    pub step: usize,
    /// Its perplexity on the validation text.
    pub perplexity: f64,
    /// Its folder inside the output folder.
    pub folder: String,
}

/// One stage of a run in stages; perplexities on the validation text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageAccount {
    /// Share of zeros.
    pub sparsity: f64,
    /// Steps done.
    pub steps: usize,
    /// Perplexity after pruning.
    pub before: f64,
    /// After the last step.
    pub after: f64,
    /// The best, which the next stage begins with.
    pub best: f64,
    /// Of the model as it was saved and read again.
    pub saved: f64,
}

impl Account {
    /// The same as one of many stages.
    pub fn stage(&self, sparsity: f64) -> StageAccount {
        let Self { steps, before, after, best, saved, .. } = *self;
        StageAccount { sparsity, steps, before, after, best, saved }
    }

    /// The share of the lost perplexity that was won back.
    pub fn fraction(before: f64, now: f64, dense: Option<f64>) -> Option<f64> {
        dense.filter(|dense| before > *dense).map(|dense| (before - now) / (before - dense))
    }
}
