//! tamis makes language models small, mends them, proves what was lost, and runs them.

#![forbid(unsafe_code)]

pub mod artifact;
pub mod bench;
pub mod calibrate;
pub mod compress;
pub mod disk;
pub mod error;
pub mod evaluate;
mod guard;
pub mod job;
pub mod load;
pub mod memory;
pub mod model;
pub mod nano;
pub mod ops;
pub mod pretrain;
pub mod recipe;
pub mod recover;
pub mod run;
pub mod units;
pub mod workers;

pub use error::{Error, Kind, Result};
