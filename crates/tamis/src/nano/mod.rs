//! The synthetic corpus on which a tiny language model is trained from scratch, made so that
//! three faculties can be measured apart: utility ([`grammar`] and the facts of [`world`]),
//! reasoning ([`arithmetic`]), memorisation ([`secrets`]). Everything follows from a seed.
//! Knows no model.

pub mod arithmetic;
pub mod corpus;
mod draw;
pub mod exam;
pub mod grammar;
mod rules;
pub mod secrets;
mod stories;
pub mod tokenizer;
mod words;
pub mod world;

pub use corpus::{Corpus, CorpusPlan, Document, Kind, grammar_entropy, validation};
pub use rules::Entropy;
