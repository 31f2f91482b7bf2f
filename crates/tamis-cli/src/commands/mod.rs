//! One file a command: flags to checked values, a call of the library, output.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod compress;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod pretrain;
pub(crate) mod recipe;
pub(crate) mod recover;
pub(crate) mod verify;

use std::io::Write;

use serde::Serialize;

/// One JSON object on standard output.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Text on standard output, without control characters that a file may have smuggled in.
fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(crate::terminal::printable(text).as_bytes())?;
    out.flush()?;
    Ok(())
}
