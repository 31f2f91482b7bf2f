//! The outcome of every protocol: sequences to feed, and which of their tokens to score.
//! Knows no protocol.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::Protocol;

/// One sequence for an empty cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The sequence, BOS included where the protocol wants one.
    pub(super) tokens: Vec<u32>,
    /// Positions in `tokens` whose token is scored, each from the tokens before it. Never
    /// holds position 0, which nothing predicts.
    pub(super) scored: Range<usize>,
}

/// Sizes of a text by which document-level perplexities are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Document {
    /// Documents.
    pub documents: usize,
    /// Words of the original text.
    pub words: usize,
    /// UTF-8 bytes of the original text.
    pub bytes: usize,
}

/// Where the beginning-of-sequence token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bos {
    /// Nowhere: the tokenizer adds none.
    None,
    /// Once, before the whole text.
    Text(u32),
    /// In place of the first token of every window.
    Window(u32),
    /// Before every document.
    Document(u32),
}

impl fmt::Display for Bos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Text(id) => write!(f, "token {id} once, before the text"),
            Self::Window(id) => write!(f, "token {id} in place of the first token of every window"),
            Self::Document(id) => write!(f, "token {id} before every document"),
        }
    }
}

/// Everything that is scored, and how it came about.
#[derive(Debug, Clone)]
pub struct Windows {
    /// The rules.
    pub(super) protocol: Protocol,
    /// In text order.
    pub(super) list: Vec<Window>,
    /// Where BOS stands.
    pub(super) bos: Bos,
    /// Windows (documents under `lm-eval`) that the text has; more than were taken if a limit
    /// was given.
    pub(super) available: usize,
    /// Windows (documents under `lm-eval`) that were taken.
    pub(super) taken: usize,
    /// Sizes of the taken documents, under `lm-eval`.
    pub(super) document: Option<Document>,
}

impl Windows {
    /// The rules they were made by.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
    /// Where BOS stands.
    pub fn bos(&self) -> Bos {
        self.bos
    }
    /// Windows (documents under `lm-eval`) that were taken, and that the text has.
    pub fn taken(&self) -> (usize, usize) {
        (self.taken, self.available)
    }
    /// Tokens that are scored.
    pub fn scored(&self) -> usize {
        self.list.iter().map(|w| w.scored.len()).sum()
    }
    /// Tokens that a model is fed: in every window all but those after the last row needed.
    pub fn fed(&self) -> usize {
        self.list.iter().map(|w| w.scored.end - 1).sum()
    }
}
