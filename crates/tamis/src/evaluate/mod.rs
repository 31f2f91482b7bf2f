//! What a compression cost: perplexity under a named protocol, divergence from the dense
//! model in the same pass, and the scorecard that holds both. Sees models only through
//! [`LanguageModel`](crate::model::LanguageModel), and text only as token ids.

pub mod divergence;
pub mod perplexity;
pub mod protocol;
pub mod scorecard;
pub mod walk;
pub mod wikitext;
mod windows;

pub use divergence::Divergence;
pub use perplexity::Perplexity;
pub use protocol::{Encode, Protocol, Specials};
pub use scorecard::Scorecard;
pub use walk::{CHUNK, Evaluation, Report};
pub use windows::{Bos, Document, Window, Windows};

/// How far a long job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Units finished.
    pub done: usize,
    /// Units in all.
    pub total: usize,
    /// What is counted, in the plural.
    pub unit: &'static str,
}
