//! What the benches share: numbers to multiply, a clock, a line of the report. Knows no kernel.

use std::time::{Duration, Instant};

/// Enough to find a quiet moment, little enough for a habit.
const RUNS: usize = 9;

pub(crate) fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// Processor time of this thread: on a shared machine the clock on the wall says more
/// about the neighbours.
#[cfg(target_os = "linux")]
fn thread_time() -> Duration {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPUTIME: i32 = 3;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the C library's own signature on 64-bit Linux; `time` is writable.
    let status = unsafe { clock_gettime(THREAD_CPUTIME, &mut time) };
    assert_eq!(status, 0);
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// The least disturbed of a few runs: processor time on one thread, else wall time.
pub(crate) fn best(threads: usize, mut run: impl FnMut()) -> Duration {
    let epoch = Instant::now();
    let now = || match threads {
        #[cfg(target_os = "linux")]
        1 => thread_time(),
        _ => epoch.elapsed(),
    };
    run();
    let time = |_| {
        let start = now();
        run();
        now() - start
    };
    (0..RUNS).map(time).min().unwrap_or_default()
}

pub(crate) fn report(name: &str, amount: f64, unit: &str, time: Duration) {
    println!("{name:<34} {:>8.1} {unit} ({time:.1?})", amount / time.as_secs_f64() / 1e9);
}

pub(crate) fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance), "the answer is wrong");
}
