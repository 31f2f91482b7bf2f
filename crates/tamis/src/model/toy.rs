//! A language model small enough to know by heart, for tests: the logits depend on the last
//! token only, by a table.

use std::cell::Cell;

use super::{Continuation, LanguageModel, Rows};
use crate::error::Result;
use crate::units::Alpha;

/// Logits of the next token by the last one; at alpha < 1, `(1 - alpha) * error` is added.
pub(crate) struct Toy {
    /// `[vocab, vocab]`.
    pub(crate) table: Vec<f32>,
    /// `[vocab, vocab]`, or empty for none.
    pub(crate) error: Vec<f32>,
    pub(crate) vocab: usize,
    pub(crate) context: usize,
    /// Tokens that were ever pushed.
    pub(crate) pushed: Cell<usize>,
    /// Sequences that were ever started.
    pub(crate) started: Cell<usize>,
}

impl Toy {
    pub(crate) fn new(vocab: usize, table: impl Fn(usize, usize) -> f32) -> Self {
        let table = (0..vocab * vocab).map(|i| table(i / vocab, i % vocab)).collect();
        let (pushed, started) = (Cell::new(0), Cell::new(0));
        Self { table, error: Vec::new(), vocab, context: 1 << 20, pushed, started }
    }
    pub(crate) fn uniform(vocab: usize) -> Self {
        Self::new(vocab, |_, _| 0.25)
    }
    /// After token `t` comes `t + 1`, without doubt.
    pub(crate) fn counting(vocab: usize) -> Self {
        Self::new(vocab, |last, next| if next == (last + 1) % vocab { 50.0 } else { 0.0 })
    }
    pub(crate) fn with_error(mut self, error: impl Fn(usize, usize) -> f32) -> Self {
        self.error = (0..self.vocab * self.vocab).map(|i| error(i / self.vocab, i % self.vocab)).collect();
        self
    }
}

impl LanguageModel for Toy {
    fn vocab(&self) -> usize {
        self.vocab
    }
    fn context(&self) -> usize {
        self.context
    }
    fn start(&self) -> Box<dyn Continuation + '_> {
        self.started.set(self.started.get() + 1);
        Box::new(Run { model: self, length: 0 })
    }
}

struct Run<'a> {
    model: &'a Toy,
    length: usize,
}

impl Continuation for Run<'_> {
    fn push(&mut self, tokens: &[u32], alpha: Alpha, rows: Rows, logits: &mut Vec<f32>) -> Result<()> {
        let Toy { table, error, vocab, context, pushed, .. } = self.model;
        self.length += tokens.len();
        assert!(self.length <= *context, "the caller checks the context");
        pushed.set(pushed.get() + tokens.len());
        logits.clear();
        for &token in &tokens[tokens.len() - rows.count(tokens.len())..] {
            let begin = token as usize * vocab;
            let row = begin..begin + vocab;
            logits.extend(&table[row.clone()]);
            if !error.is_empty() && alpha < Alpha::ONE {
                let out = logits.len() - vocab;
                let noise = error[row].iter().map(|e| (1.0 - alpha.get()) * e);
                logits[out..].iter_mut().zip(noise).for_each(|(x, e)| *x += e);
            }
        }
        Ok(())
    }
    fn len(&self) -> usize {
        self.length
    }
}
