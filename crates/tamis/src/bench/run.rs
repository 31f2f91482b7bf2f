//! The clock: one test on a model, a given number of times. Random tokens, as llama-bench feeds
//! them; what they mean does not change what they cost.

use std::num::NonZeroUsize;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::cost::batches;
use super::{Case, Test};
use crate::error::Result;
use crate::model::decoder::KvCache;
use crate::model::{Decoder, Rows, Sequence};
use crate::ops::{CacheType, Cpu, Isa, Ops, Precision};
use crate::units::Alpha;

/// Seed of the tokens that fill the cache.
const DEPTH_SEED: u64 = 0;
/// Seed of the tokens of a test.
const TEST_SEED: u64 = 1;

/// Whether a run that is not counted comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmup {
    /// The whole prompt, or one token of a test without a prompt.
    Once,
    /// None: the first repetition pays for cold caches and new memory.
    None,
}

/// What is the same for every case.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most tokens that are pushed at once.
    pub batch: NonZeroUsize,
    /// Counted runs.
    pub repetitions: NonZeroUsize,
    /// Uncounted ones.
    pub warmup: Warmup,
    /// Instruction set.
    pub isa: Isa,
    /// Precision of the matrix products.
    pub precision: Precision,
    /// Type of keys and values.
    pub cache: CacheType,
}

/// One run of a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From the first token given to the last logits.
    pub seconds: f64,
    /// From the first token given to the logits after the prompt, where there is a prompt.
    pub first_logits: Option<f64>,
}

/// A model, and a cache that is filled to the depth of the last case.
#[derive(Debug)]
pub struct Bench<'a> {
    decoder: &'a Decoder,
    rules: Rules,
    filled: Option<Filled>,
}

#[derive(Debug)]
struct Filled {
    depth: usize,
    alpha: Alpha,
    cache: KvCache,
}

impl<'a> Bench<'a> {
    /// Nothing is computed yet.
    pub fn new(decoder: &'a Decoder, rules: Rules) -> Self {
        Self { decoder, rules, filled: None }
    }

    /// Runs a case and calls `after` when a run ends, the fill of the cache not counted.
    ///
    /// Errors: the case is longer than the decoder's context
    /// ([`Decoder::extend_context`] raises it); so many threads cannot be started.
    pub fn run(&mut self, case: &Case, after: &mut dyn FnMut()) -> Result<Vec<Sample>> {
        let Rules { isa, precision, repetitions, warmup, .. } = self.rules;
        let ops = Cpu::started(isa, case.threads.get(), precision)?;
        self.fill(&ops, case)?;
        if warmup == Warmup::Once {
            self.time(&ops, case.test.warmup(), case)?;
            after();
        }
        let mut samples = Vec::new();
        for _ in 0..repetitions.get() {
            samples.push(self.time(&ops, case.test, case)?);
            after();
        }
        Ok(samples)
    }

    /// Makes the cache ready that a case starts from, unless the last case left it.
    fn fill(&mut self, ops: &dyn Ops, case: &Case) -> Result<()> {
        let Case { depth, alpha, .. } = *case;
        if self.filled.as_ref().is_some_and(|f| (f.depth, f.alpha) == (depth, alpha)) {
            return Ok(());
        }
        self.filled = None; // its memory goes before the new one's comes
        let config = self.decoder.config();
        let mut cache = KvCache::new(config, config.context, self.rules.cache);
        let tokens = random_tokens(DEPTH_SEED, config.vocab, depth);
        for batch in tokens.chunks(self.rules.batch.get()) {
            push(self.decoder, ops, (batch, &mut cache), (alpha, Rows::None), &mut Vec::new())?;
        }
        self.filled = Some(Filled { depth, alpha, cache });
        Ok(())
    }

    /// One run from the filled cache: the clock stands around the pushes and nothing else.
    fn time(&mut self, ops: &dyn Ops, test: Test, case: &Case) -> Result<Sample> {
        let tokens = random_tokens(TEST_SEED, self.decoder.config().vocab, test.tokens());
        let (prompt, generate) = tokens.split_at(test.prompt());
        let cache = &mut self.filled.as_mut().expect("the caller fills it").cache;
        cache.truncate(case.depth);
        let mut logits = Vec::new();
        let begin = Instant::now();
        for (start, count, rows) in batches(prompt.len(), self.rules.batch) {
            let batch = &prompt[start..start + count];
            push(self.decoder, ops, (batch, cache), (case.alpha, rows), &mut logits)?;
        }
        let first_logits = (!prompt.is_empty()).then(|| begin.elapsed().as_secs_f64());
        for token in generate.chunks(1) {
            push(self.decoder, ops, (token, cache), (case.alpha, Rows::Last), &mut logits)?;
        }
        Ok(Sample { seconds: begin.elapsed().as_secs_f64(), first_logits })
    }
}

/// One pass.
fn push(
    decoder: &Decoder,
    ops: &dyn Ops,
    (tokens, cache): (&[u32], &mut KvCache),
    (alpha, rows): (Alpha, Rows),
    logits: &mut Vec<f32>,
) -> Result<()> {
    let hidden = decoder.hidden(ops, &mut [Sequence { tokens, cache }], alpha)?;
    let asked = rows.count(tokens.len()) * decoder.config().hidden;
    if asked > 0 {
        decoder.logits(ops, &hidden[hidden.len() - asked..], alpha, logits);
    }
    Ok(())
}

/// The same tokens for the same seed, uniform over the vocabulary up to one part in 2^40.
fn random_tokens(seed: u64, vocab: usize, count: usize) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (random.next_u64() % vocab as u64) as u32).collect()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
