//! One pass over the windows for a model at any number of alphas and, if given, the dense
//! model beside it: perplexity of all, divergence of each from the dense one. Knows models as
//! [`LanguageModel`] and windows as token ids, nothing of protocols or texts.
//!
//! A row of logits is as long as the vocabulary, and a whole window of them (2048 x 49152 f32)
//! would take 400 MB a model. So all sequences advance together by [`CHUNK`] tokens, and the
//! logits of one chunk of the dense model and of one other are all that is ever held.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::Progress;
use super::divergence::{Divergence, Sample};
use super::perplexity::Perplexity;
use super::windows::{Window, Windows};
use crate::compress::Threads;
use crate::error::{Error, Kind, Result};
use crate::model::{Continuation, LanguageModel, Rows, logits};
use crate::units::Alpha;

/// Tokens a step; 128 rows of 49,152 logits are 25 MB.
pub const CHUNK: usize = 128;

/// What to measure.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// The model in question.
    pub model: &'a dyn LanguageModel,
    /// Where on its ortho share it is measured; each alpha costs a forward pass.
    pub alphas: &'a [Alpha],
    /// The dense model to compare with.
    pub baseline: Option<&'a dyn LanguageModel>,
    /// What is scored.
    pub windows: &'a Windows,
    /// Threads for the work on logits. The result does not depend on it.
    pub threads: NonZeroUsize,
}

/// What was measured; one entry an alpha, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Perplexities, each beside the baseline's if there was one.
    pub perplexity: Vec<Perplexity>,
    /// Divergences from the baseline; empty without one.
    pub divergence: Vec<Divergence>,
}

/// One sequence in step with the others, and what was gathered from it.
struct Lane<'a> {
    model: &'a dyn LanguageModel,
    alpha: Alpha,
    /// For messages.
    name: String,
    nll: Vec<f64>,
    samples: Vec<Sample>,
}

impl Evaluation<'_> {
    /// Scores all windows.
    ///
    /// Errors: a window longer than a context, models of different vocabularies, tokens
    /// outside the vocabulary ([`Kind::Usage`]); NaN or Inf in logits ([`Kind::NonFinite`]).
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
        self.check()?;
        let mut baseline = self.baseline.map(|model| Lane::new(model, Alpha::ONE, "the baseline".into()));
        let mut lanes: Vec<Lane<'_>> = self
            .alphas
            .iter()
            .map(|&alpha| Lane::new(self.model, alpha, format!("the model at alpha {alpha}")))
            .collect();
        let total = self.windows.fed();
        let mut done = 0;
        for (index, window) in self.windows.list.iter().enumerate() {
            self.window(window, index, baseline.as_mut(), &mut lanes, &mut |step| {
                done += step;
                progress(Progress { done, total, unit: "tokens" });
            })?;
        }
        let dense = baseline.as_ref().map(|lane| lane.nll.as_slice());
        let perplexity = lanes.iter().map(|l| Perplexity::new(l.alpha, &l.nll, self.windows, dense));
        let divergence = lanes.iter().filter(|_| dense.is_some());
        Ok(Report {
            perplexity: perplexity.collect::<Result<_>>()?,
            divergence: divergence.map(|l| Divergence::new(l.alpha, &l.samples)).collect(),
        })
    }

    fn check(&self) -> Result<()> {
        if self.alphas.is_empty() || self.windows.scored() == 0 {
            return Err(Error::usage("nothing to evaluate").next("give at least one alpha and one window"));
        }
        let vocab = self.model.vocab();
        let fed = self.windows.list.iter().map(|w| w.scored.end - 1).max().unwrap_or(0);
        for model in [Some(self.model), self.baseline].into_iter().flatten() {
            if fed > model.context() {
                let context = model.context();
                return Err(Error::usage(format!(
                    "a window of {fed} tokens exceeds the model's context of {context}"
                ))
                .next(format!("use --context {context} or less")));
            }
            if model.vocab() != vocab {
                let other = model.vocab();
                return Err(Error::usage(format!(
                    "the baseline's vocabulary has {other} entries and the model's {vocab}"
                ))
                .next("compare with the model that this one was made from"));
            }
        }
        match self.windows.list.iter().flat_map(|w| &w.tokens).find(|t| **t as usize >= vocab) {
            Some(token) => Err(Error::usage(format!(
                "the text has token {token}, outside the model's vocabulary of {vocab}"
            ))
            .next("use the tokenizer that belongs to the model")),
            None => Ok(()),
        }
    }

    /// Feeds one window to all lanes, chunk by chunk; `step` hears how many tokens went by.
    fn window(
        &self,
        window: &Window,
        index: usize,
        mut baseline: Option<&mut Lane<'_>>,
        lanes: &mut [Lane<'_>],
        step: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let (mut dense_logits, mut logits) = (Vec::new(), Vec::new());
        let mut dense_run = self.baseline.map(LanguageModel::start);
        let mut runs: Vec<_> = lanes.iter().map(|lane| lane.model.start()).collect();
        for chunk in chunks(&window.scored) {
            let place = Place { window, index, chunk: chunk.clone(), threads: self.threads };
            if let (Some(lane), Some(run)) = (baseline.as_deref_mut(), dense_run.as_deref_mut()) {
                place.advance(lane, run, &mut dense_logits)?;
            }
            for (lane, run) in lanes.iter_mut().zip(&mut runs) {
                place.advance(lane, &mut **run, &mut logits)?;
                if dense_run.is_some() {
                    place.compare(lane, &dense_logits, &logits)?;
                }
            }
            step(chunk.len());
        }
        Ok(())
    }
}

/// Steps over the rows `0 .. scored.end - 1` that a window feeds. A step never mixes rows that
/// only fill the cache with rows that are scored.
fn chunks(scored: &Range<usize>) -> Vec<Range<usize>> {
    let mut list = Vec::new();
    for part in [0..scored.start - 1, scored.start - 1..scored.end - 1] {
        list.extend(part.clone().step_by(CHUNK).map(|begin| begin..(begin + CHUNK).min(part.end)));
    }
    list
}

/// One chunk of one window.
struct Place<'a> {
    window: &'a Window,
    index: usize,
    chunk: Range<usize>,
    threads: NonZeroUsize,
}

impl Place<'_> {
    fn is_scored(&self) -> bool {
        self.chunk.start + 1 >= self.window.scored.start
    }

    /// Feeds the chunk to a lane and gathers `-ln p(target)` of its rows.
    fn advance(&self, lane: &mut Lane<'_>, run: &mut dyn Continuation, logits: &mut Vec<f32>) -> Result<()> {
        let rows = if self.is_scored() { Rows::All } else { Rows::None };
        let tokens = &self.window.tokens;
        run.push(&tokens[self.chunk.clone()], lane.alpha, rows, logits)?;
        let vocab = lane.model.vocab();
        let expected = rows.count(self.chunk.len()) * vocab;
        assert_eq!(logits.len(), expected, "a model returns the rows it is asked for");
        let nll = each_row(expected / vocab, self.threads, |row| {
            let logits = &logits[row * vocab..][..vocab];
            let target = tokens[self.chunk.start + row + 1] as usize;
            logits::log_sum_exp(logits).map(|lse| lse - f64::from(logits[target]))
        });
        for (row, nll) in nll.into_iter().enumerate() {
            lane.nll.push(nll.ok_or_else(|| self.not_finite(lane, row))?);
        }
        Ok(())
    }

    /// Gathers the divergence of the chunk's rows; both sides are known to be finite.
    fn compare(&self, lane: &mut Lane<'_>, dense: &[f32], other: &[f32]) -> Result<()> {
        let vocab = lane.model.vocab();
        let samples = each_row(other.len() / vocab, self.threads, |row| {
            let (p, q) = (&dense[row * vocab..][..vocab], &other[row * vocab..][..vocab]);
            let same_top1 = logits::argmax(p)? == logits::argmax(q)?;
            Some(Sample { kl: logits::divergence(p, q)?, same_top1 })
        });
        for (row, sample) in samples.into_iter().enumerate() {
            lane.samples.push(sample.ok_or_else(|| self.not_finite(lane, row))?);
        }
        Ok(())
    }

    fn not_finite(&self, lane: &Lane<'_>, row: usize) -> Error {
        let (window, position) = (self.index, self.chunk.start + row);
        Error::new(
            Kind::NonFinite,
            format!("{} gives NaN or Inf at position {position} of window {window}", lane.name),
        )
        .next("check the model's weights, or how it was compressed")
    }
}

impl<'a> Lane<'a> {
    fn new(model: &'a dyn LanguageModel, alpha: Alpha, name: String) -> Self {
        Self { model, alpha, name, nll: Vec::new(), samples: Vec::new() }
    }
}

/// `f` of every row, each computed by one thread, so that no result depends on their number.
fn each_row<T: Send>(
    rows: usize,
    threads: NonZeroUsize,
    f: impl Fn(usize) -> Option<T> + Sync,
) -> Vec<Option<T>> {
    let share = rows.div_ceil(threads.get()).max(1);
    let part = |part: usize| (part * share..rows.min((part + 1) * share)).map(&f).collect::<Vec<_>>();
    Threads::new(threads).map(rows.div_ceil(share), part).into_iter().flatten().collect()
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
