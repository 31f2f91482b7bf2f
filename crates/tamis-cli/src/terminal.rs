//! What people see while they wait: a progress bar with ETA and peak memory on a
//! terminal, plain lines elsewhere, nothing when asked to be quiet.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tamis::disk::read_text;
pub(crate) use tamis::units::human_bytes;

use crate::streams::{is_watched, log, printable};

/// Time between two plain progress lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one long job on standard error.
pub(crate) enum Progress {
    Quiet,
    Bar(ProgressBar),
    Lines { title: String, started: Instant, last: Option<Instant> },
}

impl Progress {
    pub(crate) fn new(title: &str, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !is_watched() {
            return Self::Lines { title: title.into(), started: Instant::now(), last: None };
        }
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {elapsed} (left {eta}) {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(title.to_owned());
        Self::Bar(bar)
    }

    /// A line that stays.
    pub(crate) fn note(&self, line: &str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.println(printable(line)),
            Self::Lines { title, .. } => log(&format!("{title}: {line}")),
        }
    }

    /// Shows `done` of `total` and what is going on.
    pub(crate) fn update(&mut self, done: u64, total: u64, message: &str) {
        let memory = peak_memory().map_or(String::new(), |bytes| format!("peak {}", human_bytes(bytes)));
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(format!("{message} {memory}"));
            }
            Self::Lines { title, started, last } => {
                if last.is_some_and(|last| last.elapsed() < LINE_EVERY) && done < total {
                    return;
                }
                *last = Some(Instant::now());
                let left = started.elapsed().mul_f64(total.saturating_sub(done) as f64 / done.max(1) as f64);
                let left =
                    if done == 0 { String::new() } else { format!(", left {:.0} s", left.as_secs_f64()) };
                let seconds = started.elapsed().as_secs_f64();
                log(&format!("{title}: {done}/{total} {message} ({seconds:.0} s{left}) {memory}"));
            }
        }
    }

    pub(crate) fn finish(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Most memory this process ever held, in bytes, where the system tells (Linux: VmHWM).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = read_text(Path::new("/proc/self/status"), 1 << 20).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
