//! Processes that carry out one run together, on one machine or many: who they are, and what they add up and
//! hand round. Knows no model, no file, and not how messages travel.
//!
//! All of them do the same steps on the same numbers, so that a sum over all of them has the same bits for each
//! of them, and from run to run where their number is the same. A worker that fails must end the others: they
//! wait for it.

use std::fmt::Debug;
use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// One of the processes, as it sees all of them. Every call of `sum`, `sum_f64` and `share` is made by each, in
/// the same order and with the same lengths.
pub trait Workers: Debug {
    /// Which one this is, counted from 0. The first writes files and talks.
    fn rank(&self) -> usize;
    /// How many there are.
    fn size(&self) -> usize;
    /// Sums each value over all workers, in the order of their ranks.
    fn sum(&self, values: &mut [f32]);
    /// As [`Workers::sum`].
    fn sum_f64(&self, values: &mut [f64]);
    /// Gives everybody the bytes of the first.
    fn share(&self, bytes: &mut [u8]);
}

impl dyn Workers + '_ {
    /// Whether this is the one that writes and talks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This worker's part of a list: every `size`-th item.
    pub fn part<T>(&self, all: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        all.skip(self.rank()).step_by(self.size())
    }

    /// `Break` for all where one says so. Nobody comes back before everybody has called.
    pub fn agree(&self, mine: ControlFlow<()>) -> ControlFlow<()> {
        let mut stops = [if mine.is_break() { 1.0 } else { 0.0 }];
        self.sum_f64(&mut stops);
        if stops[0] > 0.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Waits until everybody is here.
    pub fn meet(&self) {
        // There is no wish to stop, so there is no answer to look at.
        let _ = self.agree(ControlFlow::Continue(()));
    }

    /// Gives everybody the bytes of the first, as many as it has.
    pub fn share_all(&self, bytes: &mut Vec<u8>) {
        let mut length = (bytes.len() as u64).to_le_bytes();
        self.share(&mut length);
        bytes.resize(u64::from_le_bytes(length) as usize, 0);
        self.share(bytes);
    }

    /// Gives everybody the numbers of the first.
    pub fn share_f32(&self, values: &mut [f32]) {
        self.share(bytemuck::cast_slice_mut(values));
    }

    /// Refuses workers that hold other `inputs` than the first: each would make another model.
    pub fn check_same(&self, mine: &[u8], inputs: &str) -> Result<()> {
        if self.is_same(mine) {
            return Ok(());
        }
        Err(Error::usage(format!("the machines do not hold the same {inputs}"))
            .next("give all of them the same files, version and flags"))
    }

    /// Refuses more workers than there are parts of `what`, of which `flag` asks for more.
    pub fn check_busy(&self, parts: usize, what: &str, flag: &str) -> Result<()> {
        let size = self.size();
        if parts >= size {
            return Ok(());
        }
        Err(Error::usage(format!("{what} leaves some of {size} processes idle"))
            .next(format!("{flag} {size} or more, or fewer processes")))
    }

    /// Whether everybody holds the same bytes.
    pub fn is_same(&self, mine: &[u8]) -> bool {
        let mut first = mine.to_vec();
        self.share_all(&mut first);
        let differs = if first == mine { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        self.agree(differs).is_continue()
    }
}

/// One process that works by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Workers for Alone {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn sum(&self, _values: &mut [f32]) {}
    fn sum_f64(&self, _values: &mut [f64]) {}
    fn share(&self, _bytes: &mut [u8]) {}
}

#[cfg(test)]
pub(crate) mod threads {
    //! Workers that are threads of one test.

    use std::sync::{Arc, Barrier, Mutex};

    use super::Workers;

    /// One of some threads.
    #[derive(Debug)]
    pub(crate) struct Thread {
        rank: usize,
        size: usize,
        table: Arc<(Mutex<Vec<Vec<f64>>>, Barrier)>,
    }

    impl Thread {
        /// Lays the values on the table and takes everybody's.
        fn exchange(&self, mine: Vec<f64>) -> Vec<Vec<f64>> {
            let (table, barrier) = &*self.table;
            table.lock().unwrap()[self.rank] = mine;
            barrier.wait();
            let all = table.lock().unwrap().clone();
            barrier.wait();
            all
        }
    }

    impl Workers for Thread {
        fn rank(&self) -> usize {
            self.rank
        }
        fn size(&self) -> usize {
            self.size
        }
        fn sum(&self, values: &mut [f32]) {
            let all = self.exchange(values.iter().map(|v| f64::from(*v)).collect());
            for (at, v) in values.iter_mut().enumerate() {
                *v = all.iter().fold(0.0, |sum: f32, one| sum + one[at] as f32);
            }
        }
        fn sum_f64(&self, values: &mut [f64]) {
            let all = self.exchange(values.to_vec());
            for (at, v) in values.iter_mut().enumerate() {
                *v = all.iter().map(|one| one[at]).sum();
            }
        }
        fn share(&self, bytes: &mut [u8]) {
            let all = self.exchange(bytes.iter().map(|b| f64::from(*b)).collect());
            bytes.iter_mut().zip(&all[0]).for_each(|(b, first)| *b = *first as u8);
        }
    }

    /// Runs `work` in `size` threads, each as one worker; gives what each made.
    pub(crate) fn together<R: Send>(size: usize, work: impl Fn(&dyn Workers) -> R + Sync) -> Vec<R> {
        let table = Arc::new((Mutex::new(vec![Vec::new(); size]), Barrier::new(size)));
        std::thread::scope(|scope| {
            let start = |rank| {
                let worker = Thread { rank, size, table: table.clone() };
                let work = &work;
                scope.spawn(move || work(&worker))
            };
            let handles: Vec<_> = (0..size).map(start).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::threads::together;
    use super::*;

    #[test]
    fn one_that_stops_stops_all_and_differences_are_seen() {
        for size in [1, 2, 3] {
            let seen = together(size, |workers| {
                let last = workers.rank() + 1 == size;
                let mine = if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                let stopped = workers.agree(mine).is_break();
                let unlike = workers.is_same(&[workers.rank() as u8]);
                let alike = workers.is_same(b"alike");
                let mut bytes = vec![7; if workers.is_first() { 5 } else { 0 }];
                workers.share_all(&mut bytes);
                let part: Vec<usize> = workers.part(0..7).collect();
                (stopped, unlike, alike, bytes, part)
            });
            let mut parts = Vec::new();
            for (stopped, unlike, alike, bytes, part) in seen {
                assert_eq!((stopped, unlike, alike, bytes), (true, size == 1, true, vec![7; 5]));
                parts.extend(part);
            }
            parts.sort_unstable();
            assert_eq!(parts, (0..7).collect::<Vec<_>>());
        }
    }
}
