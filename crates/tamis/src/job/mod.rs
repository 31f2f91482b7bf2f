//! A whole compression run: checkpoint, recipe and calibration windows in, artifact out.
//! One block is in memory at a time; every finished part is durable, and a run that was
//! killed replays them and goes on to the same bytes. `merge.rs` adds an adapter in the same way.

mod estimate;
pub mod merge;
mod outcome;
mod parts;
mod run;

pub use estimate::Estimate;
pub use merge::{Losses, Merge};
pub use outcome::{Group, Outcome};
pub use run::{Calibration, Job, Step, Watch};
