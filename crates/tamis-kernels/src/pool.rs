//! Threads that stay: a task is taken from a counter, so which thread runs it is
//! chance, and no result may depend on that. Knows nothing of what a task does.
//!
//! A step of a small model is a few hundred runs of some tens of microseconds each,
//! so a worker without work first spins for a moment and only then sleeps.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::isa::Isa;

/// How long an idle thread looks for work before it sleeps: longer than the serial
/// code between two ops of a step, and than the choice of a token between two steps.
const SPIN: Duration = Duration::from_micros(200);

/// What an op runs on: an instruction set and a pool.
#[derive(Debug)]
pub struct Cpu {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub pool: Pool,
}

impl Cpu {
    /// The instruction set given and that many threads.
    pub fn new(isa: Isa, threads: usize) -> Self {
        Self { isa, pool: Pool::new(threads) }
    }
}

/// Threads this process may use: CPU affinity and cgroup quota are respected.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Persistent threads; the calling thread always takes part.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    running: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// The job of the moment, and who sleeps. Nothing is allocated and no lock is taken for
/// a run whose threads are awake.
#[derive(Default)]
struct Shared {
    /// Odd while a job is open; each run adds two.
    epoch: AtomicU64,
    job: Job,
    /// Workers that may look at the job.
    inside: AtomicUsize,
    stop: AtomicBool,
    /// Workers that wait for `posted`.
    sleepers: AtomicUsize,
    /// Whether the caller waits for `finished`.
    waited_for: AtomicBool,
    lock: Mutex<()>,
    posted: Condvar,
    finished: Condvar,
}

/// One `run`: the closure behind a raw pointer, and who has done what.
#[derive(Default)]
struct Job {
    /// Written while the epoch is even and nobody is inside; read while it is odd, inside.
    task: UnsafeCell<Option<*const (dyn Fn(usize) + Sync)>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    left: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the closure behind `task` is `Sync`, and the field says who touches it when.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

thread_local! {
    /// Whether this thread is inside a task: a `run` from there is done inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until `ready`, at most `SPIN`; says whether it became ready.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

impl Job {
    /// Takes tasks until none is left; true if this thread finished the last one.
    ///
    /// # Safety
    /// The job is open, and does not close before this returns or `left` is 0.
    unsafe fn work(&self) -> bool {
        let tasks = self.tasks.load(Relaxed);
        let mut last = false;
        loop {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= tasks {
                return last;
            }
            // SAFETY: the job is open, so nobody writes the field; a task was taken, so
            // `left > 0` and `run` still holds the closure.
            let task = unsafe { &*(*self.task.get()).expect("an open job has a task") };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index))) {
                lock(&self.panic).get_or_insert(payload);
            }
            last = self.left.fetch_sub(1, SeqCst) == 1;
        }
    }
}

impl Shared {
    fn serve(&self) {
        INSIDE.set(true);
        let mut seen = 0;
        while !self.stop.load(Acquire) {
            let news = || self.epoch.load(SeqCst) != seen || self.stop.load(Acquire);
            if !spin_until(news) {
                let mut guard = lock(&self.lock);
                self.sleepers.fetch_add(1, SeqCst);
                while !news() {
                    guard = self.posted.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, SeqCst);
            }
            // First inside, then the second look: a caller closes first and then waits for those
            // inside, so either it waits for this thread or this thread sees the job closed.
            self.inside.fetch_add(1, SeqCst);
            seen = self.epoch.load(SeqCst);
            // SAFETY: an odd epoch was seen from inside.
            if seen % 2 == 1 && unsafe { self.job.work() } && self.waited_for.load(SeqCst) {
                // Taking the lock orders this after the caller's check of `left`.
                drop(lock(&self.lock));
                self.finished.notify_all();
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Opens a job; wakes who sleeps.
    ///
    /// # Safety
    /// No job is open, and `task` lives until `close` returns.
    unsafe fn open(&self, tasks: usize, task: *const (dyn Fn(usize) + Sync)) {
        // SAFETY: no job is open and nobody is inside: `close` has waited for that.
        unsafe { *self.job.task.get() = Some(task) };
        self.job.tasks.store(tasks, Relaxed);
        self.job.next.store(0, Relaxed);
        self.job.left.store(tasks, Relaxed);
        self.epoch.fetch_add(1, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.lock));
            self.posted.notify_all();
        }
    }

    /// Waits for the last task, and until nobody looks at the job any more.
    fn close(&self) {
        let done = || self.job.left.load(SeqCst) == 0;
        if !spin_until(done) {
            let mut guard = lock(&self.lock);
            self.waited_for.store(true, SeqCst);
            while !done() {
                guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.waited_for.store(false, SeqCst);
        }
        self.epoch.fetch_add(1, SeqCst);
        // Nothing is left to do inside but to leave; only a thread that was stopped takes long.
        while !spin_until(|| self.inside.load(SeqCst) == 0) {
            std::thread::yield_now();
        }
    }
}

impl Pool {
    /// A pool of `threads` threads in all (at least 1), the caller among them.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let spawn = |i| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("tamis-{i}"));
            // A machine that refuses a thread gives a smaller pool, not an error.
            builder.spawn(move || shared.serve()).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        Self { shared, running: Mutex::new(()), workers }
    }

    /// Threads in all, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, in any order and on any thread;
    /// returns when all are done. A panic of a task is raised again here. Inside a
    /// task, or while another thread uses the pool, everything runs on the caller.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let alone = self.workers.is_empty() || tasks < 2 || INSIDE.get();
        let guard = if alone { None } else { self.running.try_lock().ok() };
        if guard.is_none() {
            return (0..tasks).for_each(task);
        }
        // SAFETY: only the lifetime is erased; `close` below waits until nobody uses it.
        let task: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        // SAFETY: `running` is held, so no other job is open.
        unsafe { self.shared.open(tasks, task) };
        INSIDE.set(true);
        // SAFETY: the job is open until `close`.
        unsafe { self.shared.job.work() };
        INSIDE.set(false);
        self.shared.close();
        let panic = lock(&self.shared.job.panic).take();
        drop(guard);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Cuts `data` into pieces of `chunk` values (the last may be short) and calls
    /// `task(i, piece)` for each.
    pub fn run_chunks<T: Send>(&self, data: &mut [T], chunk: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        assert!(chunk > 0, "a chunk of no values");
        let (len, all) = (data.len(), Disjoint::new(data));
        self.run(len.div_ceil(chunk), &|i| {
            let start = i * chunk;
            // SAFETY: every task index runs once and the ranges do not overlap.
            task(i, unsafe { all.slice(start, chunk.min(len - start)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// A mutable slice that tasks write in parts that do not overlap.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut` parts of a slice of `Send` values to other threads;
// that they do not overlap is the promise of `slice`'s caller.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }
    /// # Safety
    /// No other live part overlaps `start..start + len`.
    #[allow(clippy::mut_from_ref, reason = "the caller promises disjoint parts")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds by the assertion, unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let mut counts = vec![0u32; tasks];
                pool.run_chunks(&mut counts, 1, &|_, c| c[0] += 1);
                assert!(counts.iter().all(|&c| c == 1));
            }
        }
    }

    #[test]
    fn nested_runs_and_many_short_runs_end() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        for _ in 0..200 {
            pool.run(5, &|_| {
                pool.run(4, &|_| {
                    total.fetch_add(1, Relaxed);
                })
            });
        }
        assert_eq!(total.into_inner(), 200 * 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert!(i != 5, "task five"))));
        assert!(result.unwrap_err().downcast_ref::<&str>().is_some_and(|m| m.contains("task five")));
        pool.run(8, &|_| ());
    }

    #[test]
    fn two_callers_share_a_pool() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    pool.run(100, &|_| {
                        total.fetch_add(1, Relaxed);
                    })
                });
            }
        });
        assert_eq!(total.into_inner(), 300);
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = Pool::new(2);
        let mut data = vec![0; 10];
        pool.run_chunks(&mut data, 4, &|i, part| part.fill(i + part.len()));
        assert_eq!(data, [4, 4, 4, 4, 5, 5, 5, 5, 4, 4]);
    }
}
