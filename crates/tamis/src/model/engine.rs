//! A decoder with the arithmetic it runs on: the real [`LanguageModel`].

use std::sync::Arc;

use super::adapter::Adapter;
use super::decoder::{Decoder, KvCache, Sequence};
use super::footprint::cache_bytes;
use super::language_model::{Continuation, LanguageModel, Rows};
use crate::error::{Error, Result};
use crate::memory::Plan;
use crate::ops::{CacheType, Ops};
use crate::units::Alpha;

/// Decoder, op set, and the type of the keys and values that it keeps.
#[derive(Debug, Clone)]
pub struct Engine {
    decoder: Arc<Decoder>,
    ops: Arc<dyn Ops>,
    cache: CacheType,
}

impl Engine {
    /// Puts the three together.
    pub fn new(decoder: Decoder, ops: Arc<dyn Ops>, cache: CacheType) -> Self {
        Self { decoder: Arc::new(decoder), ops, cache }
    }
    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
    /// Chooses the adapter of every sequence that is started from now on; none is the base alone. Costs a
    /// pointer a linear layer and copies no weight. Errors: clones of this engine that share the decoder;
    /// an adapter of another model.
    pub fn select(&mut self, adapter: Option<&Adapter>) -> Result<()> {
        let shared = || Error::usage("other engines run the same decoder").next("choose before cloning");
        let decoder = Arc::get_mut(&mut self.decoder).ok_or_else(shared)?;
        match adapter {
            Some(adapter) => adapter.attach(decoder),
            None => {
                Adapter::detach(decoder);
                Ok(())
            }
        }
    }
}

impl LanguageModel for Engine {
    fn vocab(&self) -> usize {
        self.decoder.config().vocab
    }
    fn context(&self) -> usize {
        self.decoder.config().context
    }
    fn check_room(&self, tokens: usize) -> Result<()> {
        let bytes = cache_bytes(self.decoder.config(), tokens, self.cache);
        let what = &format!("keeping {tokens} more tokens of text");
        Plan { what, bytes, smaller: "use a smaller --max-tokens, a shorter text or --cache int8" }
            .check_more()
    }
    fn start(&self) -> Box<dyn Continuation + '_> {
        let cache = KvCache::new(self.decoder.config(), self.context(), self.cache);
        Box::new(EngineSequence { engine: self, cache })
    }
}

struct EngineSequence<'a> {
    engine: &'a Engine,
    cache: KvCache,
}

impl Continuation for EngineSequence<'_> {
    fn push(&mut self, tokens: &[u32], alpha: Alpha, rows: Rows, logits: &mut Vec<f32>) -> Result<()> {
        let Engine { decoder, ops, .. } = self.engine;
        let mut batch = [Sequence { tokens, cache: &mut self.cache }];
        let hidden = decoder.hidden(&**ops, &mut batch, alpha)?;
        let asked = rows.count(tokens.len()) * decoder.config().hidden;
        decoder.logits(&**ops, &hidden[hidden.len() - asked..], alpha, logits);
        Ok(())
    }
    fn len(&self) -> usize {
        self.cache.len()
    }
}
