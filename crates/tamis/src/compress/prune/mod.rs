//! Which weights of a linear go, and what the others become: score times pattern. Knows no
//! files and no quantisation.
//!
//! ```text
//! score.rs      what a weight, or a block of weights, is worth
//! pattern.rs    which of them a pattern may drop, given what they are worth -> Mask
//! sparsegpt.rs  both at once, inside the column sweep, with compensation
//! refit.rs      the best values for the blocks that were kept
//! ```
//!
//! Sparsity is always the share of zeros. A kept weight that happens to be zero stays kept.

pub mod mask;
pub mod pattern;
pub mod refit;
pub mod score;
pub mod sparsegpt;
#[cfg(test)]
mod tests;

pub use mask::Mask;
pub use pattern::Pattern;
pub use score::{BlockScore, Score};
