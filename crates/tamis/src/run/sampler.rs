//! From a row of logits to the next token. Knows no model and no text.
//!
//! The steps and their order are those of transformers' `generate`:
//!
//! 1. repetition penalty `r` (CTRL, arXiv 1909.05858): the logit of every token seen so far,
//!    prompt included, is divided by `r` if positive and multiplied by `r` if negative;
//! 2. temperature 0: the token of the largest logit, the lowest id on ties, and nothing else;
//! 3. temperature `T`: `w_i = exp(x_i / T)`;
//! 4. top-k: the `k` largest, and all that tie with the last of them;
//! 5. top-p (nucleus, arXiv 1904.09751): by falling weight, until the share of what is left
//!    after top-k reaches `p`; at least one token;
//! 6. min-p (arXiv 2407.01082): at least `m` times as likely as the most likely token;
//! 7. one draw by weight.
//!
//! llama.cpp cuts (4 to 6) before it applies the temperature, so with top-p or min-p and a
//! temperature other than 1 it keeps other tokens at the same settings.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Kind, Result};
use crate::model::logits;

/// What a user can set; [`Sampler::new`] checks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// 0 for greedy; else the divisor of the logits.
    pub temperature: f32,
    /// 0 for off.
    pub top_k: usize,
    /// In (0, 1]; 1 for off.
    pub top_p: f32,
    /// In [0, 1]; 0 for off.
    pub min_p: f32,
    /// Above 0; 1 for off.
    pub repetition_penalty: f32,
    /// Same seed, same logits: same tokens, on every machine.
    pub seed: u64,
}

impl Default for SamplerSettings {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Checked settings and the state of the random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplerSettings,
    random: ChaCha8Rng,
}

/// A token and its weight relative to the most likely one.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    weight: f64,
}

impl Sampler {
    /// Checks every setting. Errors are [`Kind::Usage`].
    pub fn new(settings: SamplerSettings) -> Result<Self> {
        let SamplerSettings { temperature, top_p, min_p, repetition_penalty, seed, .. } = settings;
        let range = |ok: bool, name: &str, range: &str, value: f32| {
            if ok {
                Ok(())
            } else {
                Err(Error::usage(format!("{name} must {range}, not {value}"))
                    .next("leave the flag out for the default"))
            }
        };
        range(temperature.is_finite() && temperature >= 0.0, "temperature", "be 0 or more", temperature)?;
        range(top_p > 0.0 && top_p <= 1.0, "top-p", "lie in (0, 1]", top_p)?;
        range((0.0..=1.0).contains(&min_p), "min-p", "lie in [0, 1]", min_p)?;
        let penalty = repetition_penalty;
        range(penalty.is_finite() && penalty > 0.0, "repetition penalty", "be above 0", penalty)?;
        Ok(Self { settings, random: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { settings: SamplerSettings::default(), random: ChaCha8Rng::seed_from_u64(0) }
    }

    /// The token after the tokens `seen`. Errors with [`Kind::NonFinite`].
    pub fn next(&mut self, logits: &[f32], seen: &[u32]) -> Result<u32> {
        let scores = self.penalised(logits, seen);
        if self.settings.temperature == 0.0 {
            return logits::argmax(&scores).ok_or_else(not_finite);
        }
        let candidates = self.candidates(&scores)?;
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut left = self.uniform() * total;
        for candidate in &candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Ok(candidate.token);
            }
        }
        // Rounding can leave a remainder after the last one.
        Ok(candidates[candidates.len() - 1].token)
    }

    /// The tokens that could follow `seen`, and their probabilities, most likely first.
    pub fn distribution(&self, logits: &[f32], seen: &[u32]) -> Result<Vec<(u32, f64)>> {
        let scores = self.penalised(logits, seen);
        if self.settings.temperature == 0.0 {
            return Ok(vec![(logits::argmax(&scores).ok_or_else(not_finite)?, 1.0)]);
        }
        let mut candidates = self.candidates(&scores)?;
        candidates.sort_unstable_by(by_rank);
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        Ok(candidates.iter().map(|c| (c.token, c.weight / total)).collect())
    }

    fn penalised(&self, logits: &[f32], seen: &[u32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        let penalty = self.settings.repetition_penalty;
        if penalty != 1.0 {
            // From the logit as it came, so a token seen twice is penalised once.
            for &token in seen {
                if let Some(&x) = logits.get(token as usize) {
                    scores[token as usize] = if x < 0.0 { x * penalty } else { x / penalty };
                }
            }
        }
        scores
    }

    /// What the filters leave, in a fixed order.
    fn candidates(&self, scores: &[f32]) -> Result<Vec<Candidate>> {
        let SamplerSettings { temperature, top_k, top_p, min_p, .. } = self.settings;
        let weights = logits::softmax_weights(scores, f64::from(temperature)).ok_or_else(not_finite)?;
        let floor = if top_k == 0 { f32::NEG_INFINITY } else { nth_largest(scores, top_k) };
        let mut kept: Vec<Candidate> = (0u32..)
            .zip(scores.iter().zip(weights))
            .filter(|(_, (score, _))| **score >= floor)
            .map(|(token, (_, weight))| Candidate { token, weight })
            .collect();
        if top_p < 1.0 {
            nucleus(&mut kept, f64::from(top_p));
        }
        // The largest weight is 1 by construction.
        kept.retain(|c| c.weight >= f64::from(min_p));
        Ok(kept)
    }

    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn not_finite() -> Error {
    Error::new(Kind::NonFinite, "the model gives NaN or Inf instead of a next token")
        .next("check the model's weights, or how it was compressed")
}

fn by_rank(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The `k`-th largest score, or the smallest where there are fewer.
fn nth_largest(scores: &[f32], k: usize) -> f32 {
    let mut sorted = scores.to_vec();
    let index = k.min(sorted.len()) - 1;
    *sorted.select_nth_unstable_by(index, |a, b| b.total_cmp(a)).1
}

/// Keeps candidates by falling weight while those before them hold less than `p` of the total.
fn nucleus(kept: &mut Vec<Candidate>, p: f64) {
    let total: f64 = kept.iter().map(|c| c.weight).sum();
    // All below this together hold less than 1 - p, so none of them is in the nucleus; what is
    // left to sort is some hundreds of a vocabulary of 50,000.
    let hopeless = (1.0 - p) * total / kept.len() as f64;
    kept.retain(|c| c.weight >= hopeless);
    kept.sort_unstable_by(by_rank);
    let mut before = 0.0;
    let inside = kept.iter().take_while(|c| {
        let inside = before < p * total;
        before += c.weight;
        inside
    });
    let count = inside.count();
    kept.truncate(count);
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
