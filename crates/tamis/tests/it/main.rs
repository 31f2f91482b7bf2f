//! Integration tests of the library, one binary.

mod allocation;
mod artifact_hostile;
mod artifact_kill;
mod calibration;
#[path = "../../../../fuzz/src/lib.rs"]
pub mod fuzz;
mod fuzz_corpus;
mod golden_adapters;
mod golden_logits;
mod job;
mod pack_quantized;
mod places;
mod real_model;
mod tensorboard;
