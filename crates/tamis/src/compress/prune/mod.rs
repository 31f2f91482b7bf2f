//! Which weights of a linear go, and what the others become: score times pattern. Knows no
//! files.
//!
//! ```text
//! plan.rs       what a recipe asks for
//! linear.rs     choose, update, store
//! score.rs      what a weight, or a block of weights, is worth
//! pattern.rs    which of them a pattern may drop, given what they are worth -> Mask
//! tiers.rs      blocks that are kept whole, thinned in several ways, or left out
//! permute.rs    free orders of units, so that weak ones share blocks
//! sparsegpt.rs  both at once, inside the column sweep, with compensation
//! refit.rs      the best values for the blocks that were kept
//! ```
//!
//! Sparsity is always the share of zeros. A kept weight that happens to be zero stays kept.

mod linear;
pub mod mask;
pub mod pattern;
pub mod permute;
pub mod plan;
pub mod refit;
pub mod score;
pub mod sparsegpt;
#[cfg(test)]
mod tests;
pub mod tiers;
#[cfg(test)]
mod tiers_tests;

pub(super) use linear::linear;
pub use mask::Mask;
pub use pattern::Pattern;
pub use plan::{Criterion, Kept, Pruning, Update};
pub use score::{BlockScore, Score};
pub use tiers::Tiers;
