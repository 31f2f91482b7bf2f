//! A whole compression run: checkpoint, recipe and calibration windows in, artifact out.
//! One block is in memory at a time; every finished part is durable, and a run that was
//! killed replays them and goes on to the same bytes.

mod allocate;
mod estimate;
mod outcome;
mod parts;
mod permute;
mod run;

pub use allocate::Share;
pub use estimate::Estimate;
pub use outcome::{Group, Outcome};
pub use run::{Calibration, Job, Step, Watch};
