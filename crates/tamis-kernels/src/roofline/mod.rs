//! The two limits of a machine as kernels that do nothing else: reading memory, and
//! arithmetic in registers (the roofline of Williams, Waterman and Patterson 2009,
//! doi 10.1145/1498765.1498785). Knows no clock: whoever calls them takes the time.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
mod chains;
mod read;
pub mod scalar;

use std::hint::black_box;

use crate::isa::Isa;
use crate::pool::{Cpu, Disjoint};

/// A kind of multiply-add that a core does in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// f32 times f32, added to f32.
    F32,
    /// Pairs of bf16 added to f32 (`vdpbf16ps`).
    Bf16,
    /// Quads of int8 added to int32 (`vpdpbusd`).
    Int8,
}

/// Sums that a chain loop may keep at once. Which number is best depends on latency and registers:
/// plain code has room for 4, AVX2 for 12, and dot products of bf16 take longest.
pub const CHAINS: [usize; 4] = [4, 8, 12, 24];

/// What arithmetic was done, and what came out of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Multiplications and additions, two for each product.
    pub operations: u64,
    /// Sum over all chains and lanes; the same for every thread.
    pub sum: f64,
}

impl Unit {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// `f32 fma`, `bf16 dot` or `int8 dot`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32 fma",
            Self::Bf16 => "bf16 dot",
            Self::Int8 => "int8 dot",
        }
    }
    /// Whether `isa` does it in hardware; f32 always counts.
    pub fn is_on(self, isa: Isa) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => isa.has_bf16(),
            Self::Int8 => isa.has_vnni(),
        }
    }
}

/// The largest value of `data` (minus infinity for none), read `passes` times from end to end
/// by all threads, each its own share. A maximum has no order, so every split gives the same.
///
/// # Panics
/// If `passes` is 0.
pub fn read(cpu: &Cpu, data: &[f32], passes: usize) -> f32 {
    assert!(passes > 0, "reading it no times gives no value");
    let threads = cpu.pool.threads();
    // a share is whole cache lines, so that no line belongs to two threads
    let share = data.len().div_ceil(threads).next_multiple_of(16);
    let mut largest = vec![f32::NEG_INFINITY; threads];
    cpu.pool.run_chunks(&mut largest, 1, &|thread, out| {
        let start = (thread * share).min(data.len());
        let own = &data[start..(start + share).min(data.len())];
        for _ in 0..passes {
            // the compiler must not see that every pass reads the same
            out[0] = out[0].max(read::largest(cpu.isa, black_box(own)));
        }
    });
    largest.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `rounds` multiply-adds on each of `chains` sums (one of [`CHAINS`]) on every thread, all in
/// registers. Nothing where the instruction set has no such unit.
///
/// # Panics
/// If `chains` is not one of [`CHAINS`].
pub fn arithmetic(cpu: &Cpu, unit: Unit, chains: usize, rounds: usize) -> Option<Work> {
    if !unit.is_on(cpu.isa) {
        return None;
    }
    let threads = cpu.pool.threads();
    let mut sums = vec![(0u64, 0.0f64); threads];
    let out = Disjoint::new(&mut sums);
    cpu.pool.run(threads, &|thread| {
        // SAFETY: every thread has an entry of its own.
        let own = unsafe { out.slice(thread, 1) };
        own[0] = chains::run(cpu.isa, unit, (chains, black_box(rounds)));
    });
    Some(Work { operations: sums.iter().map(|s| s.0).sum(), sum: sums.first().map_or(0.0, |s| s.1) })
}

#[cfg(test)]
mod tests;
