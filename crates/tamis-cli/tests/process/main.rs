//! The command as a process among others: its streams may be closed or full, signals come at any moment, inputs and
//! outputs may be anything. Whatever happens, the exit code has one meaning, and nothing panics.

mod exits;
mod setup;
mod signals;
mod streams;
