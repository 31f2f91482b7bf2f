//! tamis makes language models small, mends them, proves what was lost, and runs them.

#![forbid(unsafe_code)]

pub mod artifact;
pub mod compress;
pub mod error;
pub mod load;
pub mod model;
pub mod recipe;
pub mod units;

pub use error::{Error, Kind, Result};
