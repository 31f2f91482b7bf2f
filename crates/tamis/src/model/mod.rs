//! What a decoder is. Architectures differ only in data: a [`Config`] and a table
//! of names; one file each. The forward pass is written once.

pub mod architecture;
pub mod config;
pub mod fields;
pub mod linear;
pub mod llama;

pub use architecture::Architecture;
pub use config::Config;
pub use linear::{Linear, Weight};
