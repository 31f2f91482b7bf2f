//! What a forward pass must read and compute at least, from the shapes and the bytes of the
//! weights alone. Knows no time.
//!
//! Bytes: every weight once a pass, a row of the embedding for each token, the head only where
//! logits are asked for, and the keys and values of every position that one of the pass's tokens
//! sees, once. Activations are not counted: they stay in the caches.
//!
//! Operations: two for each weight and token, two for each weight of the head and row of logits,
//! and `4 * heads * head_dim` for each position that a token sees (`q . k` and `p * v`).

use std::num::NonZeroUsize;
use std::ops::{Add, AddAssign};

use super::Test;
use crate::model::decoder::KvCache;
use crate::model::{Decoder, Linear, NormWeights, Rows};
use crate::ops::CacheType;
use crate::units::Alpha;

/// Bytes to read and operations to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bytes.
    pub bytes: u64,
    /// Multiplications and additions.
    pub operations: u64,
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, operations: self.operations + other.operations }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Cost {
    /// Of reading and applying a linear layer to one row.
    fn linear(linear: &Linear, alpha: Alpha) -> Self {
        let operations = 2 * linear.weight.products_at(alpha) as u64;
        Self { bytes: linear.bytes_at(alpha) as u64, operations }
    }
    /// Of reading a norm; its arithmetic is not counted.
    fn norm(norm: &NormWeights) -> Self {
        Self { bytes: norm.bytes() as u64, operations: 0 }
    }
    fn sum(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// What a whole test costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TestCost {
    /// Of the batches of the prompt.
    pub prompt: Cost,
    /// Of the single tokens.
    pub generate: Cost,
}

/// Costs of the parts of one model at one alpha.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Blocks and input projection: read once a pass, applied to every token.
    body: Cost,
    /// Final norm, output projection, head: read once a pass, applied to every row of logits.
    head: Cost,
    /// Read for each token: rows of the embedding and of learned positions.
    token_bytes: u64,
    /// Keys and values of one position in one layer.
    position_bytes: u64,
    /// For one token and one position that it sees, in one layer.
    position_operations: u64,
    /// Sliding window of every layer.
    windows: Vec<Option<usize>>,
}

impl Costs {
    /// Adds up a model.
    pub fn of(decoder: &Decoder, alpha: Alpha, cache: CacheType) -> Self {
        let config = decoder.config();
        let (stem, crown) = (decoder.stem(), decoder.crown());
        let linear = |linear: &Linear| Cost::linear(linear, alpha);
        let block = |block: &crate::model::Block| {
            let linears = crate::model::block::Role::ALL.into_iter().filter_map(|role| block.linear(role));
            Cost::sum(linears.map(linear).chain(block.norms().map(Cost::norm)))
        };
        let blocks = Cost::sum(decoder.blocks().iter().map(block));
        let crown_parts = [Some(linear(crown.head())), crown.project_out().map(linear)];
        let crown_norm = crown.final_norm().map(Cost::norm);
        // looking a row up takes no ortho stream
        let row = |weight: &crate::model::Weight| (weight.bytes_at(Alpha::ZERO) / weight.rows()) as u64;
        Self {
            body: blocks + stem.project_in().map(linear).unwrap_or_default(),
            head: Cost::sum(crown_parts.into_iter().chain([crown_norm]).flatten()),
            token_bytes: row(&stem.embedding().weight) + stem.positions().map_or(0, row),
            position_bytes: KvCache::new(config, 0, cache).position_bytes() as u64,
            position_operations: 4 * (config.heads * config.head_dim) as u64,
            windows: config.layers.iter().map(|layer| layer.window).collect(),
        }
    }

    /// Of one pass of `tokens` tokens after `start` others. Nothing for no tokens.
    pub fn pass(&self, start: usize, tokens: usize, rows: Rows) -> Cost {
        if tokens == 0 {
            return Cost::default();
        }
        let (m, logits) = (tokens as u64, rows.count(tokens) as u64);
        let mut cost = Cost {
            bytes: self.body.bytes + m * self.token_bytes + if logits > 0 { self.head.bytes } else { 0 },
            operations: m * self.body.operations + logits * self.head.operations,
        };
        for window in &self.windows {
            let window = window.unwrap_or(usize::MAX);
            // the first token sees the earliest position, the last one the latest
            let first = (start + 1).saturating_sub(window);
            let read = (start + tokens - first) as u64;
            let seen: u64 = (start..start + tokens).map(|position| (position + 1).min(window) as u64).sum();
            cost += Cost { bytes: read * self.position_bytes, operations: seen * self.position_operations };
        }
        cost
    }

    /// Of a test on a cache of `depth` tokens, as [`Bench`](super::Bench) runs it.
    pub fn test(&self, test: Test, depth: usize, batch: NonZeroUsize) -> TestCost {
        let mut cost = TestCost::default();
        for (start, tokens, rows) in batches(test.prompt(), batch) {
            cost.prompt += self.pass(depth + start, tokens, rows);
        }
        for step in 0..test.generate() {
            cost.generate += self.pass(depth + test.prompt() + step, 1, Rows::Last);
        }
        cost
    }
}

/// A prompt as batches: first token, tokens, and rows of logits, which only the last one gives.
pub(super) fn batches(prompt: usize, batch: NonZeroUsize) -> impl Iterator<Item = (usize, usize, Rows)> {
    (0..prompt).step_by(batch.get()).map(move |start| {
        let tokens = batch.get().min(prompt - start);
        let rows = if start + tokens == prompt { Rows::Last } else { Rows::None };
        (start, tokens, rows)
    })
}

/// Bytes of all weights in memory; a tied head is counted once.
pub fn weight_bytes(decoder: &Decoder) -> u64 {
    let costs = Costs::of(decoder, Alpha::ONE, CacheType::F32);
    let embedding = if decoder.config().tied { 0 } else { decoder.stem().embedding().bytes_at(Alpha::ONE) };
    let positions = decoder.stem().positions().map_or(0, |w| w.bytes());
    costs.body.bytes + costs.head.bytes + (embedding + positions) as u64
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
