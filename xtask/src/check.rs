//! `cargo xtask check`: everything a change must pass, cheapest first.

use std::path::Path;
use std::process::Command;

use crate::{deny, tidy};

const FORMAT: &[&str] = &["fmt", "--check"];
const LINT: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
const TEST: &[&str] = &["test", "--workspace"];

/// Runs the steps in order; `Ok(false)` at the first that fails.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    Ok(cargo(root, FORMAT)?
        && cargo(root, LINT)?
        && tidy::run(root)?
        && deny::run(root)?
        && cargo(root, TEST)?)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<bool, String> {
    // The cargo that started us, so that the toolchain stays the same.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let line = arguments.join(" ");
    eprintln!("xtask: cargo {line}");
    let status = Command::new(program).args(arguments).current_dir(root).status();
    let passed = status.map_err(|error| format!("cannot start cargo: {error}"))?.success();
    if !passed {
        eprintln!("xtask: failed: cargo {line}");
    }
    Ok(passed)
}
