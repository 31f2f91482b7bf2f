//! Packed weight layouts and CPU kernels. Slices in, slices out: this crate
//! knows no model, no file and no tensor name. It is the only crate of tamis
//! that may say `unsafe`.
//!
//! Every op takes a [`Cpu`]: an instruction set and a pool of threads. For one
//! instruction set the result of every op is the same to the last bit for any
//! number of threads, and a row's result does not depend on the rows beside it.

mod aligned;
mod isa;
mod lanes;
mod slab;
mod sparse;
#[cfg(any(test, all(target_arch = "x86_64", not(miri))))]
mod tile_unit;

pub mod activation;
pub mod adam;
pub mod attention;
pub mod gram;
pub mod linear;
pub mod loss;
pub mod memory;
pub mod norm;
pub mod pack;
pub mod pool;
pub mod quantized;
pub mod roofline;
pub mod rope;
pub mod softmax;

pub use isa::{ISA_VARIABLE, Isa};
pub use linear::Precision;
pub use pool::{Cpu, Pool, default_threads};
