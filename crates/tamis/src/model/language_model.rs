//! A causal language model seen from outside: tokens in, logits out. What evaluation and
//! generation know of a model; they know nothing of layers, weights or files.

use crate::error::Result;
use crate::units::Alpha;

/// Something that can continue token sequences.
pub trait LanguageModel {
    /// Length of a row of logits; every token id is smaller.
    fn vocab(&self) -> usize;
    /// Longest sequence.
    fn context(&self) -> usize;
    /// Errors: [`Kind::Memory`](crate::Kind::Memory), where there is no room for `tokens` more tokens of a sequence.
    fn check_room(&self, tokens: usize) -> Result<()> {
        let _ = tokens;
        Ok(())
    }
    /// An empty sequence with its own cache.
    fn start(&self) -> Box<dyn Continuation + '_>;
}

/// One growing sequence.
pub trait Continuation {
    /// Appends `tokens`, and sets `logits` to the `rows` asked for, `[rows, vocab]` row-major;
    /// row `i` predicts the token after `tokens[i]`. How a sequence is cut into calls must not
    /// change a bit of the logits.
    fn push(&mut self, tokens: &[u32], alpha: Alpha, rows: Rows, logits: &mut Vec<f32>) -> Result<()>;
    /// Tokens appended so far.
    fn len(&self) -> usize;
    /// Whether nothing was appended yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which rows of logits a caller needs. The head is a fifth of a small model's work, so a
/// prefill that only fills the cache should not pay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// None: the tokens are context only.
    None,
    /// The row after the last token.
    Last,
    /// One row a token.
    All,
}

impl Rows {
    /// Rows that a push of `tokens` tokens returns.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}
