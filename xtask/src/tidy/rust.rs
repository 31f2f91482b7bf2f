//! Rules for Rust files: header, length, `unsafe`, printing, unfinished code.

use super::file::{File, words};
use super::{Finding, test_code};

const MOST_LINES: usize = 500;
const UNSAFE_HOME: &str = "crates/tamis-kernels/";
const QUIET: &[&str] = &["crates/tamis/src/", "crates/tamis-kernels/src/"];
const PRINTS: &[&str] = &["println", "eprintln", "print", "eprint", "dbg"];
const UNFINISHED: &[&str] = &["todo", "unimplemented"];

/// The first line says what the file is.
pub(super) fn header(file: &File) -> Vec<Finding> {
    if !file.is_rust() || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Finding::new(1, "start the file with `//!`: what it is and what it does not know")]
}

/// A file fits in a head.
pub(super) fn length(file: &File) -> Vec<Finding> {
    let lines = file.lines().count();
    if !file.is_rust() || lines <= MOST_LINES {
        return Vec::new();
    }
    let message = format!("{lines} lines, {MOST_LINES} at most: split the file by what its parts are");
    vec![Finding::new(MOST_LINES + 1, message)]
}

/// Only the kernels may say `unsafe`.
pub(super) fn unsafe_code(file: &File) -> Vec<Finding> {
    if file.path.starts_with(UNSAFE_HOME) {
        return Vec::new();
    }
    let guilty = file.code().filter(|(_, line)| words(line, "unsafe").next().is_some());
    guilty.map(|(line, _)| Finding::new(line, format!("`unsafe` belongs in {UNSAFE_HOME}"))).collect()
}

/// Libraries return values; only the command prints.
pub(super) fn printing(file: &File) -> Vec<Finding> {
    if !QUIET.iter().any(|folder| file.path.starts_with(folder)) {
        return Vec::new();
    }
    let for_tests = test_code::lines(file);
    let found = macros(file, PRINTS).filter(|&(line, _)| !for_tests[line - 1]);
    found
        .map(|(line, name)| Finding::new(line, format!("`{name}!` in a library: return it or use tracing")))
        .collect()
}

/// Nothing half-present is committed.
pub(super) fn unfinished(file: &File) -> Vec<Finding> {
    macros(file, UNFINISHED)
        .map(|(line, name)| Finding::new(line, format!("`{name}!`: finish it or leave it out")))
        .collect()
}

/// Lines of code that call one of the macros `names`.
fn macros<'a>(file: &'a File, names: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> {
    let calls = |line: &str, name: &str| words(line, name).any(|at| line[at + name.len()..].starts_with('!'));
    file.code().filter_map(move |(number, line)| {
        names.iter().find(|name| calls(line, name)).map(|name| (number, *name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn header_comes_first() {
        assert_eq!(lines(header, "src/a.rs", "\n//! Late.\n"), [1]);
        assert_eq!(lines(header, "src/a.rs", "//! What it is.\n"), [0_usize; 0]);
        assert_eq!(lines(header, "a.toml", "[a]\n"), [0_usize; 0]);
    }

    #[test]
    fn length_ends_at_five_hundred() {
        assert_eq!(lines(length, "src/a.rs", &"\n".repeat(501)), [501]);
        assert_eq!(lines(length, "src/a.rs", &"\n".repeat(500)), [0_usize; 0]);
        assert_eq!(lines(length, "Cargo.lock", &"\n".repeat(501)), [0_usize; 0]);
    }

    #[test]
    fn unsafe_stays_in_the_kernels() {
        let text = "//! No unsafe here.\n#![forbid(unsafe_code)]\nunsafe { f() }\n";
        assert_eq!(lines(unsafe_code, "crates/tamis/src/lib.rs", text), [3]);
        assert_eq!(lines(unsafe_code, "crates/tamis-kernels/src/isa.rs", text), [0_usize; 0]);
        assert_eq!(lines(unsafe_code, "xtask/src/a.rs", "f(\"unsafe\") // unsafe\n"), [0_usize; 0]);
    }

    #[test]
    fn libraries_do_not_print() {
        let text = "/// println!(\"doc\")\nfn f() {\n    println!(\"a\");\n}\n";
        assert_eq!(lines(printing, "crates/tamis/src/a.rs", text), [3]);
        assert_eq!(lines(printing, "crates/tamis-cli/src/a.rs", text), [0_usize; 0]);
        assert_eq!(lines(printing, "crates/tamis-kernels/benches/a.rs", text), [0_usize; 0]);
        let tested = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { dbg!(1); }\n}\n";
        assert_eq!(lines(printing, "crates/tamis/src/a.rs", tested), [0_usize; 0]);
        assert_eq!(lines(printing, "crates/tamis/src/a.rs", "fn println() { writeln!(f) }\n"), [0_usize; 0]);
    }

    #[test]
    fn unfinished_code_is_refused() {
        assert_eq!(lines(unfinished, "src/a.rs", "fn f() { todo!() }\n"), [1]);
        assert_eq!(lines(unfinished, "src/a.rs", "// no todo!() here\nfn todo() {}\n"), [0_usize; 0]);
    }
}
