//! Calibration: text to windows, windows to activations, activations to evidence
//! (a Gram matrix for every group of linears that share an input).

mod text;
mod walk;
mod windows;

pub use text::{Document, Documents, read_documents, read_text};
pub use walk::{Replace, Walk};
pub(crate) use windows::below;
pub use windows::{Windows, choose_apart, choose_windows};
