//! Training that mends a model: gradients of every part of the decoder, what is trained and what is
//! left alone, losses, the optimiser and its schedule. Holes stay holes: a masked weight has no master.
//!
//! ```text
//! plan.rs         which parts are trained, and how          parameters.rs   the numbers, and AdamW on them
//! gradient.rs     linear layers and norms, back             kept.rs         which weights of a matrix are kept
//! block.rs        one block forward with a tape, and back   crown.rs        head and losses, a few rows at a time
//! student.rs      all of it over a batch            trainable.rs    from a method to a plan
//! peft.rs         adapters as PEFT reads them       tensorboard.rs  event files
//! curve.rs        a picture of a run
//! ```

pub mod block;
pub mod crown;
pub mod curve;
pub mod gradient;
pub mod kept;
pub mod parameters;
pub mod peft;
pub mod plan;
pub mod student;
pub mod tensorboard;
pub mod trainable;

#[cfg(test)]
mod tests;
