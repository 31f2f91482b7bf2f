//! How fast a model runs, and how far from the limits of the machine: timed tests, what they
//! must read and compute at least, and what the machine can do. Knows no files and no text.
//!
//! The tests are those of llama.cpp's `llama-bench`.

pub mod cost;
pub mod limits;
pub mod plan;
pub mod report;
pub mod run;
pub mod statistics;

pub use cost::{Cost, Costs, TestCost, weight_bytes};
pub use limits::{LimitRow, Limits, Machine};
pub use plan::{Case, Plan, Test};
pub use report::{Facts, Measured, Row};
pub use run::{Bench, Rules, Sample, Warmup};
pub use statistics::Summary;
