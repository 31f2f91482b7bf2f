//! Repository chores: `cargo xtask tidy`, `cargo xtask deny`, `cargo xtask check` and `cargo xtask quality`.
//!
//! Knows nothing of models; it reads the repository's files and starts cargo.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a chore tells whoever started it")]

mod check;
mod deny;
mod quality;
mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask <command>

  tidy    checks the rules of STYLE.md that a script can check, over all tracked files
  deny    checks licences, bans and sources of all dependencies by deny.toml
  quality MODEL CALIBRATION TEXT SAMPLES
          compresses MODEL with every recipe of the quality table and writes docs/quality.md
  check   fmt, clippy, tidy, deny and the tests, in this order; stops at the first failure";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => root().and_then(|root| tidy::run(&root)),
        ["deny"] => root().and_then(|root| deny::run(&root)),
        ["check"] => root().and_then(|root| check::run(&root)),
        ["quality", model, calibration, text, samples] => root()
            .and_then(|root| quality::run(&root, &quality::Inputs { model, calibration, text, samples })),
        ["help" | "-h" | "--help"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Root of the checkout that the current folder belongs to.
fn root() -> Result<PathBuf, String> {
    let output = Command::new("git").args(["rev-parse", "--show-toplevel"]).output();
    let output = output.map_err(|error| format!("cannot start git: {error}; install git"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("not a git checkout: {}; run inside a clone", reason.trim()));
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim_end_matches(['\n', '\r'])))
}
