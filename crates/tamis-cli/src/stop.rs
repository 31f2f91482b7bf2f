//! Ctrl-C, SIGTERM and SIGHUP, for every command from its first line on. A signal ends the process at once: no file
//! has its final name before it is whole, so nothing is lost. Work that has reached a safe place is asked to stop at
//! the next one instead. A second signal always ends the process.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tamis::error::Kind;

use crate::streams::{is_watched, log};

/// A signal came.
static ASKED: AtomicBool = AtomicBool::new(false);
/// The work at hand stops by itself.
static SAVES: AtomicBool = AtomicBool::new(false);
/// A folder that is to go when the process is ended.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Listens from now on. Where the system refuses, signals do what they do to any program.
pub(crate) fn listen() {
    let _ = ctrlc::set_handler(|| {
        // Set before looked at, as `at_once` does the other way round: one of both sees the other.
        let again = ASKED.swap(true, Ordering::SeqCst);
        if again || !SAVES.load(Ordering::SeqCst) {
            end();
        }
        log(&format!("{}stopping at the next safe place; a second signal stops at once", fresh_line()));
    });
}

/// From here on the work looks at [`asked`], or is short and the last of its command.
pub(crate) fn save_first() {
    SAVES.store(true, Ordering::SeqCst);
}

/// What was done so far is saved, and the work goes on from there when it is done again: `Break` once a signal came.
pub(crate) fn safe_place() -> ControlFlow<()> {
    save_first();
    asked()
}

/// From here on a signal ends the process at once, as does one that the work before had no time to follow.
pub(crate) fn at_once() {
    SAVES.store(false, Ordering::SeqCst);
    end_if_asked();
}

/// `Break` once a signal came.
pub(crate) fn asked() -> ControlFlow<()> {
    if ASKED.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Ends the process if a signal came.
pub(crate) fn end_if_asked() {
    if asked().is_break() {
        end();
    }
}

/// The signal has been followed, and the command goes on: the next one is a first one again.
pub(crate) fn followed() {
    ASKED.store(false, Ordering::SeqCst);
}

/// Names the folder to remove when a signal ends the process.
pub(crate) fn set_temporary(folder: Option<PathBuf>) {
    if let Ok(mut temporary) = TEMPORARY.lock() {
        *temporary = folder;
    }
}

fn end() -> ! {
    if let Ok(mut temporary) = TEMPORARY.lock()
        && let Some(folder) = temporary.take()
    {
        // a folder that will not go is in the way of nothing
        let _ = tamis::disk::atomic::remove_any(&folder);
    }
    log(&format!("{}stopped; give the same command again to go on", fresh_line()));
    std::process::exit(Kind::Stopped.exit_code().into())
}

/// A terminal shows `^C`, and perhaps a progress bar, where the next line would begin.
fn fresh_line() -> &'static str {
    if is_watched() { "\n" } else { "" }
}
