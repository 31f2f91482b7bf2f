//! Integration tests of the library, one binary.

mod golden_logits;
mod real_model;
