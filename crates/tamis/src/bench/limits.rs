//! What this machine can do at most: bytes read a second, multiply-adds a second. Measured, not
//! looked up: the best of a few short runs of kernels that do nothing else.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde::Serialize;
use tamis_kernels::Cpu;
use tamis_kernels::roofline::{CHAINS, arithmetic, read};

pub use tamis_kernels::roofline::Unit;

use super::{Case, TestCost};
use crate::error::Result;
use crate::memory::{check_threads, reserve, unused};
use crate::ops::{Isa, Precision};

/// One run lasts at least this long, so that starting the threads does not count.
const RUN: Duration = Duration::from_millis(10);
/// Runs, of which the best counts: what the machine can do, not what its neighbours leave of it.
const RUNS: usize = 5;
/// Multiply-adds of each chain in the first, shortest run.
const ROUNDS: usize = 1 << 12;
/// The smallest buffer that is read: less tells about starting threads.
const SMALLEST: usize = 64 << 10;
/// The largest one: more is no slower.
const LARGEST: usize = 1 << 30;
/// Share of the free memory that a buffer may take: one in so many.
const SHARE_OF_FREE: u64 = 2;

/// The limits that one test is held against: reading for its single tokens, arithmetic for its
/// prompt. A test without the one or the other has no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Read bandwidth.
    pub read: Option<Bandwidth>,
    /// Peak arithmetic.
    pub peak: Option<Peak>,
}

/// How fast a buffer can be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    /// Bytes a second.
    pub rate: f64,
    /// Size of the buffer.
    pub buffer: usize,
}

/// How fast registers can be multiplied and added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Operations a second.
    pub rate: f64,
    /// Which operations.
    pub unit: Unit,
}

/// One limit of the machine, for a table. Exactly one of the rates is there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitRow {
    /// `read` or the name of a unit.
    pub limit: &'static str,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: &'static str,
    /// Size of the buffer that all threads share.
    pub buffer_bytes: Option<usize>,
    /// 10^9 bytes a second.
    pub gb_per_second: Option<f64>,
    /// 10^9 operations a second, two for each product.
    pub gop_per_second: Option<f64>,
}

/// A machine to be measured; keeps the buffer and what it has measured.
#[derive(Debug)]
pub struct Machine {
    isa: Isa,
    buffer: Vec<f32>,
    bandwidths: Vec<((NonZeroUsize, usize), f64)>,
    peaks: Vec<((NonZeroUsize, Unit), f64)>,
}

impl Machine {
    /// Nothing is measured yet.
    pub fn new(isa: Isa) -> Self {
        Self { isa, buffer: Vec::new(), bandwidths: Vec::new(), peaks: Vec::new() }
    }

    /// Bytes a second at which `threads` threads together read a buffer of `bytes` bytes again and
    /// again, each its own share. A buffer that fits a cache measures the cache.
    ///
    /// Errors: there is no memory for the buffer ([`Kind::Memory`](crate::Kind::Memory)).
    pub fn bandwidth(&mut self, threads: NonZeroUsize, bytes: usize) -> Result<f64> {
        let key = (threads, bytes);
        if let Some((_, known)) = self.bandwidths.iter().find(|(k, _)| *k == key) {
            return Ok(*known);
        }
        let values = (bytes / size_of::<f32>()).max(1);
        self.grow(values)?;
        let cpu = self.cpu(threads)?;
        let data = &self.buffer[..values];
        let once = |passes: usize| {
            let begin = Instant::now();
            std::hint::black_box(read(&cpu, data, passes));
            ((passes * size_of_val(data)) as f64, begin.elapsed())
        };
        let rate = best_rate(1, &once);
        self.bandwidths.push((key, rate));
        Ok(rate)
    }

    /// Operations a second of `unit` in the registers of `threads` cores; none where the
    /// instruction set has no such unit. Errors: as many threads cannot be started.
    pub fn peak(&mut self, threads: NonZeroUsize, unit: Unit) -> Result<Option<f64>> {
        let key = (threads, unit);
        if let Some((_, known)) = self.peaks.iter().find(|(k, _)| *k == key) {
            return Ok(Some(*known));
        }
        if !unit.is_on(self.isa) {
            return Ok(None);
        }
        let cpu = self.cpu(threads)?;
        let rate = |chains: usize| {
            let once = |rounds: usize| {
                let begin = Instant::now();
                let work = arithmetic(&cpu, unit, chains, rounds);
                (work.map_or(0.0, |w| std::hint::black_box(w).operations as f64), begin.elapsed())
            };
            best_rate(ROUNDS, &once)
        };
        let best = CHAINS.into_iter().map(rate).fold(0.0, f64::max);
        self.peaks.push((key, best));
        Ok(Some(best))
    }

    fn cpu(&self, threads: NonZeroUsize) -> Result<Cpu> {
        let cpu = Cpu::new(self.isa, threads.get());
        check_threads(cpu.pool.threads(), threads.get())?;
        Ok(cpu)
    }

    /// What a case with this cost is held against. The buffer is as large as what a single token
    /// reads, so that a model that fits a cache is held against the cache.
    pub fn limits(&mut self, case: &Case, cost: TestCost, precision: Precision) -> Result<Limits> {
        let mut limits = Limits::default();
        if let Some(bytes) = cost.generate.bytes.checked_div(case.test.generate() as u64) {
            let buffer = buffer_bytes(bytes, unused());
            limits.read = Some(Bandwidth { rate: self.bandwidth(case.threads, buffer)?, buffer });
        }
        if case.test.prompt() > 0 {
            let unit = match precision {
                Precision::Int8 if Unit::Int8.is_on(self.isa) => Unit::Int8,
                Precision::Bf16 if Unit::Bf16.is_on(self.isa) => Unit::Bf16,
                Precision::F32 | Precision::Bf16 | Precision::Int8 => Unit::F32,
            };
            limits.peak = self.peak(case.threads, unit)?.map(|rate| Peak { rate, unit });
        }
        Ok(limits)
    }

    /// Every limit, for each number of threads: reading buffers of several sizes, and the units
    /// that the instruction set has.
    pub fn table(&mut self, threads: &[NonZeroUsize]) -> Result<Vec<LimitRow>> {
        let mut rows = Vec::new();
        for &threads in threads {
            let row = LimitRow {
                limit: "read",
                threads: threads.get(),
                isa: self.isa.name(),
                buffer_bytes: None,
                gb_per_second: None,
                gop_per_second: None,
            };
            for buffer in sizes(threads, unused()) {
                let rate = self.bandwidth(threads, buffer)?;
                let (buffer_bytes, gb_per_second) = (Some(buffer), Some(rate / 1e9));
                rows.push(LimitRow { buffer_bytes, gb_per_second, ..row.clone() });
            }
            for unit in Unit::ALL {
                if let Some(rate) = self.peak(threads, unit)? {
                    rows.push(LimitRow {
                        limit: unit.name(),
                        gop_per_second: Some(rate / 1e9),
                        ..row.clone()
                    });
                }
            }
        }
        Ok(rows)
    }

    /// A buffer of at least `values` numbers that were written: pages that never were are all the
    /// same page of zeros, which no memory is read for.
    fn grow(&mut self, values: usize) -> Result<()> {
        let more = values.saturating_sub(self.buffer.len());
        reserve(&mut self.buffer, more).map_err(|e| e.next("leave --roofline out or free memory"))?;
        self.buffer.extend((self.buffer.len()..values).map(|i| (i % 1000) as f32));
        Ok(())
    }
}

/// Amount a second of the best of some runs; `run(count)` says what amount `count` rounds were and
/// what they took. The count is doubled from `count` until a run is long enough.
fn best_rate(mut count: usize, run: &dyn Fn(usize) -> (f64, Duration)) -> f64 {
    while run(count).1 < RUN && count < 1 << 40 {
        count *= 2;
    }
    let rate = |(amount, time): (f64, Duration)| amount / time.as_secs_f64();
    (0..RUNS).map(|_| rate(run(count))).fold(0.0, f64::max)
}

/// The buffer that stands for weights of `bytes`: as large, within what is useful and free.
fn buffer_bytes(bytes: u64, free: Option<u64>) -> usize {
    let most = free.map_or(u64::MAX, |free| free / SHARE_OF_FREE).clamp(SMALLEST as u64, LARGEST as u64);
    bytes.clamp(SMALLEST as u64, most) as usize
}

/// Sizes that tell caches from memory, for so many threads: half a MiB each, which an L2 cache
/// holds, then what fits the last cache of most machines, of few, of none. What does not fit
/// the free memory is left out.
fn sizes(threads: NonZeroUsize, free: Option<u64>) -> Vec<usize> {
    let fits = |bytes: &usize| free.is_none_or(|free| *bytes as u64 <= free / SHARE_OF_FREE);
    let sizes = [threads.get() << 19, 32 << 20, 256 << 20, LARGEST];
    sizes.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Cost, Test};
    use crate::units::Alpha;

    #[test]
    fn a_run_grows_until_the_clock_can_see_it() {
        let counts = std::cell::RefCell::new(Vec::new());
        // 1 ms a round, and every run a little slower than the one before
        let run = |count: usize| {
            counts.borrow_mut().push(count);
            let lost = Duration::from_millis(counts.borrow().len() as u64);
            (count as f64, Duration::from_millis(count as u64) + lost)
        };
        let rate = best_rate(1, &run);
        assert_eq!(*counts.borrow(), [1, 2, 4, 8, 8, 8, 8, 8, 8]);
        assert!((rate - 8.0 / 0.013).abs() < 1e-9, "the first of the five counted runs is the best");
    }

    #[test]
    fn a_buffer_is_as_large_as_the_weights_within_bounds() {
        assert_eq!(buffer_bytes(80 << 20, None), 80 << 20);
        assert_eq!(buffer_bytes(80 << 20, Some(100 << 20)), 50 << 20);
        assert_eq!(buffer_bytes(9 << 40, None), LARGEST);
        assert_eq!(buffer_bytes(3, Some(0)), SMALLEST);
    }

    #[test]
    fn sizes_that_do_not_fit_are_left_out() {
        let two = NonZeroUsize::new(2).unwrap();
        assert_eq!(sizes(two, None), [1 << 20, 32 << 20, 256 << 20, 1 << 30]);
        assert_eq!(sizes(two, Some(1 << 30)), [1 << 20, 32 << 20, 256 << 20]);
        assert_eq!(sizes(two, Some(0)), [0usize; 0]);
    }

    #[test]
    fn a_case_is_held_against_what_it_does() {
        let cost = Cost { bytes: 30, operations: 40 };
        for isa in Isa::available() {
            let mut machine = Machine::new(isa);
            for (prompt, generate) in [(3, 0), (0, 3), (3, 3)] {
                let test = Test::new(prompt, generate).unwrap();
                let case = Case { test, depth: 0, alpha: Alpha::ONE, threads: NonZeroUsize::MIN };
                let zero = Cost::default();
                let cost = TestCost {
                    prompt: if prompt > 0 { cost } else { zero },
                    generate: if generate > 0 { cost } else { zero },
                };
                let limits = machine.limits(&case, cost, Precision::F32).unwrap();
                assert_eq!((limits.peak.is_some(), limits.read.is_some()), (prompt > 0, generate > 0));
                assert!(limits.peak.is_none_or(|p| p.rate > 0.0 && p.unit == Unit::F32));
                assert!(limits.read.is_none_or(|r| r.rate > 0.0 && r.buffer == SMALLEST));
                // measured once: a second measurement would not be the same to the last bit
                assert_eq!(machine.limits(&case, cost, Precision::F32).unwrap(), limits);
            }
            assert_eq!(machine.peak(NonZeroUsize::MIN, Unit::Bf16).unwrap().is_some(), isa.has_bf16());
        }
    }
}
