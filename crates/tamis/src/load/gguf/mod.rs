//! GGUF files: header, metadata, tensors. `model/<family>.rs` makes a configuration
//! of the metadata; `load/tokenizer` makes a tokenizer of it.

pub mod header;
pub mod metadata;
mod names;
mod reader;
pub mod source;

pub use header::{Header, MAGIC};
pub use metadata::{Metadata, Value};
pub use source::{GgufFile, GgufSource, RotaryRows};

#[cfg(test)]
pub(crate) mod writer;
