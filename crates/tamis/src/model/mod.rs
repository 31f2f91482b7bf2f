//! What a decoder is. Architectures differ only in data: a [`Config`] and a table
//! of names; one file each. The forward pass is written once.

pub mod adapter;
pub mod architecture;
pub mod block;
pub mod config;
pub mod decoder;
pub mod engine;
pub mod fields;
pub mod footprint;
pub mod gemma3;
#[cfg(test)]
mod golden_configs;
pub mod hf_config;
mod kin;
pub mod language_model;
pub mod linear;
pub mod llama;
pub mod logits;
pub mod mistral;
pub mod opt;
pub mod qwen2;
pub mod qwen3;
pub mod rotation;
#[cfg(test)]
pub(crate) mod toy;

pub use adapter::{Adapter, LowRank};
pub use architecture::Architecture;
pub use block::Block;
pub use config::{Config, Layer};
pub use decoder::{Decoder, KvCache, Sequence};
pub use engine::Engine;
pub use language_model::{Continuation, LanguageModel, Rows};
pub use linear::{Linear, NormWeights, Weight};
