//! A model and the sequence in its cache, so that a prompt that extends the sequence only
//! costs its new tokens. Knows no text.

use super::generate::{Detokenise, Generation, Options};
use super::sampler::Sampler;
use crate::error::{Error, Result};
use crate::model::{Continuation, LanguageModel, Rows};
use crate::units::Alpha;

/// Tokens a push while a prompt is read.
pub const PREFILL_CHUNK: usize = 512;

/// A model and one cached sequence.
pub struct Session<'m> {
    model: &'m dyn LanguageModel,
    cache: Option<Cache<'m>>,
}

struct Cache<'m> {
    run: Box<dyn Continuation + 'm>,
    ids: Vec<u32>,
    /// Keys and values depend on it, so a cache is worth nothing at another alpha.
    alpha: Alpha,
}

impl<'m> Session<'m> {
    /// With an empty cache.
    pub fn new(model: &'m dyn LanguageModel) -> Self {
        Self { model, cache: None }
    }
    /// Forgets the cached sequence.
    pub fn clear(&mut self) {
        self.cache = None;
    }
    /// Longest sequence, prompt and answer together.
    pub fn context(&self) -> usize {
        self.model.context()
    }
    /// The tokens in the cache.
    pub fn ids(&self) -> &[u32] {
        self.cache.as_ref().map_or(&[], |cache| &cache.ids)
    }

    /// Continues `prompt`. Nothing is computed before the first item is asked for.
    ///
    /// Errors, all [`Kind::Usage`](crate::Kind::Usage): an empty prompt, tokens outside the
    /// vocabulary, nothing to generate, or prompt and answer longer than the context.
    pub fn generate<'s>(
        &'s mut self,
        prompt: &[u32],
        options: &Options,
        sampler: &'s mut Sampler,
        text: Box<dyn Detokenise + 's>,
    ) -> Result<Generation<'s, 'm>> {
        let (tokens, new, context) = (prompt.len(), options.max_tokens, self.model.context());
        if prompt.is_empty() {
            return Err(Error::usage("the prompt has no tokens").next("give a prompt of at least one token"));
        }
        if new == 0 {
            return Err(Error::usage("0 new tokens leave nothing to do").next("use --max-tokens 1 or more"));
        }
        if let Some(token) = prompt.iter().find(|t| **t as usize >= self.model.vocab()) {
            let vocab = self.model.vocab();
            return Err(Error::usage(format!(
                "the prompt has token {token}, outside the model's vocabulary of {vocab}"
            ))
            .next("use the tokenizer that belongs to the model"));
        }
        if new > context.saturating_sub(tokens) {
            let next = match context.saturating_sub(tokens) {
                0 => "shorten the prompt".to_owned(),
                room => format!("use --max-tokens {room} or fewer, or shorten the prompt"),
            };
            return Err(Error::usage(format!(
                "a prompt of {tokens} tokens and {new} new ones exceed the model's context of {context}"
            ))
            .next(next));
        }
        self.model.check_room((tokens + new).saturating_sub(self.ids().len()))?;
        Generation::new(self, prompt, options, sampler, text)
    }

    /// Brings the cache to `prompt` and gives the logits after it. Returns the number of tokens
    /// that were there already.
    pub(super) fn prefill(&mut self, prompt: &[u32], alpha: Alpha, logits: &mut Vec<f32>) -> Result<usize> {
        let fits = |cache: &Cache<'_>| {
            // A proper beginning: the logits after the last token are not kept.
            cache.alpha == alpha && cache.ids.len() < prompt.len() && prompt.starts_with(&cache.ids)
        };
        if !self.cache.as_ref().is_some_and(fits) {
            self.cache = Some(Cache { run: self.model.start(), ids: Vec::new(), alpha });
        }
        let reused = self.ids().len();
        let chunks = prompt[reused..].chunks(PREFILL_CHUNK);
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.enumerate() {
            self.push(chunk, if index == last { Rows::Last } else { Rows::None }, logits)?;
        }
        Ok(reused)
    }

    /// Appends to the cached sequence; a failure empties the cache, whose state is then unknown.
    pub(super) fn push(&mut self, tokens: &[u32], rows: Rows, logits: &mut Vec<f32>) -> Result<()> {
        let cache = self.cache.as_mut().expect("prefill comes first");
        let pushed = cache.run.push(tokens, cache.alpha, rows, logits);
        cache.ids.extend_from_slice(tokens);
        if pushed.is_err() {
            self.cache = None;
        }
        pushed
    }
}
