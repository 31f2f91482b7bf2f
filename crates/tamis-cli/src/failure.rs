//! What went wrong, as one message with a next step and an exit code: errors, panics, and command lines that clap
//! refuses.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Mutex;

use clap::CommandFactory;
use tamis::error::{Error, Kind};

use crate::args::Tamis;
use crate::streams::{Unread, log, print_help};

/// The first panic: where, and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps what a panic says for [`guarded`]. The usual trace is for those who set `RUST_BACKTRACE`.
pub(crate) fn note_panics() {
    let usual = take_hook();
    let wants_trace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if wants_trace {
            usual(info);
        }
        let place = info.location().map_or("an unknown place".into(), ToString::to_string);
        let said = info.payload_as_str().unwrap_or("nothing");
        if let Ok(mut first) = PANIC.lock() {
            first.get_or_insert(format!("panicked at {place}: {said}"));
        }
    }));
}

/// Carries out `work`; a panic in it is an error like others.
pub(crate) fn guarded(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let noted = PANIC.lock().ok().and_then(|mut first| first.take());
        Err(Error::defect(noted.unwrap_or_else(|| "panicked".into())).into())
    })
}

/// Says what went wrong; gives the exit code.
pub(crate) fn report(result: anyhow::Result<()>) -> u8 {
    let Err(error) = result else { return 0 };
    if error.is::<Unread>() {
        return 0;
    }
    let error = error.downcast().unwrap_or_else(|other| Error::defect(format!("{other:#}")));
    debug_assert!(error.names_file() || !is_of_a_file(error.kind()), "no file is named: {error}");
    log(&format!("error: {error}"));
    error.kind().exit_code()
}

/// Whether errors of this class have a file that they are about.
fn is_of_a_file(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::BadData | Kind::Missing | Kind::CannotWrite | Kind::Io | Kind::Recipe | Kind::NonFinite
    )
}

/// What clap answers instead of a command: help that was asked for, or a refusal.
pub(crate) fn answer(answer: &clap::Error) -> u8 {
    if !answer.use_stderr() {
        return report(print_help(&answer.render()));
    }
    let text = answer.render().to_string();
    let text = text.trim_end();
    let text = text.strip_suffix("For more information, try '--help'.").unwrap_or(text).trim_end();
    log(&format!("{text}\n\n  next: {} --help", asked_for()));
    Kind::Usage.exit_code()
}

/// The command that was named, with its subcommand: `tamis recipe show`.
fn asked_for() -> String {
    let all = Tamis::command();
    let (mut command, mut name) = (&all, all.get_name().to_owned());
    for word in std::env::args_os().skip(1) {
        let Some(next) = command.find_subcommand(&word) else { break };
        name = format!("{name} {}", next.get_name());
        command = next;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_defect_with_its_place() {
        note_panics();
        let error = guarded(|| panic!("a number of {}", 7)).unwrap_err();
        let error = error.downcast::<Error>().unwrap();
        assert_eq!(error.kind().exit_code(), 1);
        let message = error.to_string();
        assert!(message.contains("failure.rs") && message.contains(": a number of 7"), "{message}");
        assert!(message.contains("next: this is a defect of tamis"), "{message}");
    }
}
