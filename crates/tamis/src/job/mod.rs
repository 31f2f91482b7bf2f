//! A whole compression run: checkpoint, recipe and calibration windows in, artifact out.
//! One block is in memory at a time; every finished part is durable, and a run that was
//! killed replays them and goes on to the same bytes. `rewrite.rs` writes a model again with some tensors
//! changed, as `merge.rs` and `export.rs` do.

mod allocate;
mod estimate;
mod export;
pub mod merge;
mod outcome;
mod parts;
mod permute;
pub(crate) mod publish;
pub mod rewrite;
mod run;

pub use allocate::Share;
pub use estimate::Estimate;
pub use export::export;
pub use merge::{Losses, Merge};
pub use outcome::{Group, Outcome};
pub use run::{Calibration, Job, Step, Watch};

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod workers_tests;
