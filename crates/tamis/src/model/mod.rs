//! What a decoder is. Architectures differ only in data: a [`Config`] and a table
//! of names; one file each. The forward pass is written once.

pub mod architecture;
pub mod config;
pub mod language_model;
pub mod linear;
pub mod logits;
#[cfg(test)]
pub(crate) mod toy;

pub use architecture::Architecture;
pub use config::Config;
pub use language_model::{Continuation, LanguageModel, Rows};
pub use linear::{Linear, Weight};
