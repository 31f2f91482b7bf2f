//! Memory of a model before it is loaded: what its parts take as the checkpoint stores them, which is how they are
//! held, and what a pass takes besides. Knows no command.

use super::block::Role;
use super::config::Config;
use super::decoder::KvCache;
use crate::load::Checkpoint;
use crate::ops::{CacheType, Precision};

/// Bytes of the parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// All tensors.
    pub all: u64,
    /// The largest block.
    pub block: u64,
    /// The embedding.
    pub embedding: u64,
    /// Weights of the largest linear of a block: numbers, not bytes.
    pub largest: u64,
}

impl Sizes {
    /// Those of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        let tensors = checkpoint.tensors().tensors();
        let names = config.architecture.family().names;
        let of_prefix = |prefix: &str| -> u64 {
            tensors.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, info)| info.bytes).sum()
        };
        let block = (0..config.layers.len()).map(|i| of_prefix(&format!("{}.{i}.", names.block))).max();
        let linears = Role::ALL.iter().filter(|role| role.is_in(config)).map(|role| role.shape(config));
        Self {
            all: tensors.values().map(|info| info.bytes).sum(),
            block: block.unwrap_or(0),
            embedding: of_prefix(names.embedding),
            largest: linears.map(|(rows, cols)| rows as u64 * cols as u64).max().unwrap_or(0),
        }
    }
}

/// How a model is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Precision of the products.
    pub precision: Precision,
    /// Type of keys and values.
    pub cache: CacheType,
    /// Threads, each of which loads a block.
    pub threads: usize,
    /// Sequences that are held at once.
    pub sequences: usize,
    /// Most tokens of each.
    pub tokens: usize,
    /// Most tokens that are pushed at once.
    pub together: usize,
    /// Most rows of logits that are held.
    pub rows: usize,
}

impl Usage {
    /// Bytes of the weights and of what runs on them, at most. Integers are laid in tiles when they are loaded, a block
    /// a thread at a time.
    pub fn bytes(&self, checkpoint: &Checkpoint) -> u64 {
        let (config, sizes) = (checkpoint.config(), Sizes::of(checkpoint));
        let copies = if self.precision == Precision::Int8 {
            sizes.embedding.max(self.threads as u64 * sizes.block)
        } else {
            0
        };
        self.running(config).saturating_add(sizes.all + copies)
    }

    /// Bytes of caches, activations and logits.
    pub fn running(&self, config: &Config) -> u64 {
        let cache = (self.sequences as u64).saturating_mul(cache_bytes(config, self.tokens, self.cache));
        let logits = (self.rows as u64).saturating_mul(2 * 4 * config.vocab as u64);
        cache
            .saturating_add((self.together as u64).saturating_mul(4 * config.widest()))
            .saturating_add(logits)
    }
}

/// Bytes of the keys and values of `tokens` tokens in all layers.
pub fn cache_bytes(config: &Config, tokens: usize, kind: CacheType) -> u64 {
    let position = KvCache::new(config, 0, kind).position_bytes() as u64 * config.layers.len() as u64;
    // Caches of f32 grow by half.
    let held = position.saturating_mul(tokens as u64);
    if kind == CacheType::F32 { held.saturating_add(held / 2) } else { held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::testdata::golden_models;

    #[test]
    fn what_is_planned_is_at_least_what_is_held() {
        let Some(models) = golden_models() else { return };
        let checkpoint = Checkpoint::open(models.join("llama-gqa").to_str().unwrap()).unwrap();
        let sizes = Sizes::of(&checkpoint);
        assert!(sizes.all > sizes.block && sizes.all > sizes.embedding && sizes.block > 0);
        let usage = |precision, cache, tokens| Usage {
            precision,
            cache,
            threads: 2,
            sequences: 2,
            tokens,
            together: 8,
            rows: 8,
        };
        let bytes = |p, c, tokens| usage(p, c, tokens).bytes(&checkpoint);
        let exact = bytes(Precision::F32, CacheType::F32, 64);
        assert!(exact > sizes.all && bytes(Precision::Int8, CacheType::F32, 64) > exact);
        assert!(bytes(Precision::F32, CacheType::Int8, 64) < exact);
        assert_eq!(bytes(Precision::F32, CacheType::F32, usize::MAX), u64::MAX);
    }
}
