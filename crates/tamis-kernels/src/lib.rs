//! Packed weight layouts and CPU kernels. Slices in, slices out: this crate
//! knows no model, no file and no tensor name. It is the only crate of tamis
//! that may say `unsafe`.

pub mod pack;
