//! Standard output and standard error: everything that this command says goes through here. The result is on
//! standard output and must arrive; progress and notes are on standard error and never end a job. Also the clean-up
//! of text that models wrote before it reaches a terminal.

use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;
use tamis::error::{Error, Kind};

/// Whoever read standard output has seen enough and is gone: no failure, and nothing more to say.
#[derive(Debug)]
pub(crate) struct Unread;

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for Unread {}

/// Text on standard output, without control characters that a file may have smuggled in. Errors: [`Unread`]; what
/// the system says of a full disk and the like.
pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    print_raw(&printable(text))
}

/// One JSON object on standard output. Errors: those of [`print_text`].
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::defect(format!("no JSON: {e}")))?;
    print_raw(&(text + "\n"))
}

/// Help as clap renders it: in its colours on a terminal that shows them.
pub(crate) fn print_help(text: &clap::builder::StyledStr) -> anyhow::Result<()> {
    let plain =
        std::env::var_os("NO_COLOR").is_some() || std::env::var_os("TERM").is_none_or(|t| t == "dumb");
    let coloured = std::io::stdout().is_terminal() && !plain;
    print_raw(&if coloured { text.ansi().to_string() } else { text.to_string() })
}

fn print_raw(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Unread.into()),
        Err(e) => Err(Error::new(Kind::Io, format!("cannot write: {e}"))
            .file("standard output")
            .next("make room where the output goes, or send it elsewhere, and give the same command again")
            .into()),
    }
}

/// A line on standard error, if somebody reads it. Work goes on all the same.
pub(crate) fn log(line: &str) {
    let _ = std::io::stderr().write_all((printable(line) + "\n").as_bytes());
}

/// Whether somebody watches standard error.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Text of a model or a file without control characters that could drive a terminal.
pub(crate) fn printable(text: &str) -> String {
    let keep = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_of_a_model_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mred\u{9b}2J\tok\n"), "a[31mred2J\tok\n");
    }
}
