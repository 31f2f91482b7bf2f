//! A fixed number of threads for independent tasks. It knows nothing about what a
//! task computes; because every task is a pure function of its index and results
//! come back in index order, the answer is the same for any number of threads.
//!
//! The tasks are strips of rows: rows of W are independent given the factor of
//! the inverse Gram matrix (Frantar 2022, arXiv 2210.17323, step 1).

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, ScopedJoinHandle};

use crate::error::Result;
use crate::memory::check_threads;

/// How many threads may work at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads(NonZeroUsize);

impl Threads {
    /// One thread.
    pub const ONE: Self = Self(NonZeroUsize::MIN);

    /// `count` threads.
    pub fn new(count: NonZeroUsize) -> Self {
        Self(count)
    }

    /// `count` threads. Errors: [`Kind::Memory`](crate::Kind::Memory), where so many cannot be started at once.
    pub fn started(count: NonZeroUsize) -> Result<Self> {
        let door = Mutex::new(());
        let wait = || drop(door.lock());
        let started = std::thread::scope(|scope| {
            let closed = door.lock();
            let start = |_| Builder::new().spawn_scoped(scope, wait).ok();
            let started = (0..count.get()).map_while(start).count();
            drop(closed);
            started
        });
        check_threads(started, count.get())?;
        Ok(Self(count))
    }

    /// Their number.
    pub fn count(self) -> usize {
        self.0.get()
    }

    /// `[f(0), f(1), ..., f(tasks - 1)]`.
    //
    // No task runs on the calling thread. faer's AVX-512 products return with the upper
    // halves of the vector registers in use, after which every SSE instruction of that
    // thread, and of threads it starts, is about four times slower (measured on a sweep:
    // 35 ms before a product, 120 ms after). A thread that ends takes this with it.
    pub fn map<T: Send>(self, tasks: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let work = || {
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < tasks);
            std::iter::from_fn(take).map(|task| (task, f(task))).collect::<Vec<_>>()
        };
        let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
            let start = |_| Builder::new().spawn_scoped(scope, work).ok();
            let workers: Vec<_> = (0..self.0.get().min(tasks)).map_while(start).collect();
            // Those that run take the tasks of one that could not be started.
            let own = if workers.is_empty() { work() } else { Vec::new() };
            let join =
                |worker: ScopedJoinHandle<_>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            workers.into_iter().flat_map(join).chain(own).collect()
        });
        done.sort_unstable_by_key(|(task, _)| *task);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// `f(i, &mut items[i])` for every item.
    pub fn each<T: Send>(self, items: &mut [T], f: impl Fn(usize, &mut T) + Sync) {
        let workers = self.0.get().min(items.len());
        let queue = Mutex::new(items.iter_mut().enumerate());
        let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |_| std::iter::from_fn(take).for_each(|(i, item)| f(i, item));
        self.map(workers, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_started_before_they_are_counted_on() {
        assert_eq!(Threads::started(NonZeroUsize::MIN).unwrap(), Threads::ONE);
        assert_eq!(Threads::started(NonZeroUsize::new(3).unwrap()).unwrap().count(), 3);
    }

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        for threads in 1..5 {
            for tasks in [0, 1, 2, 33] {
                let threads = Threads::new(NonZeroUsize::new(threads).unwrap());
                let squares: Vec<usize> = (0..tasks).map(|i| i * i).collect();
                assert_eq!(threads.map(tasks, |i| i * i), squares);
                let mut items: Vec<usize> = (0..tasks).collect();
                threads.each(&mut items, |i, item| *item *= i);
                assert_eq!(items, squares);
            }
        }
    }
}
