//! `cargo xtask tidy`: the rules of STYLE.md that a script can check.
//!
//! One rule is one function from a [`File`] to its [`Finding`]s; the rules touch no
//! disk, so their tests are strings.

mod citation;
mod disk;
mod file;
mod lexer;
mod links;
mod names;
mod rust;
mod shell;
mod test_code;
mod text;
mod tracked;

use std::path::Path;

use file::File;

/// What a rule found: a line, counted from 1, and what to change there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    line: usize,
    message: String,
}

impl Finding {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

type Rule = fn(&File) -> Vec<Finding>;

const RULES: &[Rule] = &[
    citation::missing,
    disk::elsewhere,
    names::vague,
    rust::header,
    rust::length,
    rust::unsafe_code,
    rust::printing,
    rust::unfinished,
    shell::strict_mode,
    text::machine_paths,
    text::marks,
    text::whitespace,
];

/// Checks every tracked file below `root`; true when nothing was found.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    let paths = tracked::paths(root)?;
    let mut findings = 0;
    for path in &paths {
        for Finding { line, message } in inspect(root, path, &paths)? {
            println!("{path}:{line}: {message}");
            findings += 1;
        }
    }
    println!("tidy: {} files, {findings} findings", paths.len());
    Ok(findings == 0)
}

fn inspect(root: &Path, path: &str, paths: &[String]) -> Result<Vec<Finding>, String> {
    // A binary file has a name and nothing else that the rules could read.
    let text = tracked::read_text(root, path)?.unwrap_or_default();
    let file = File::new(path, &text);
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&file)).collect();
    findings.extend(links::broken(&file, paths));
    findings.sort();
    Ok(findings)
}

/// Lines at which `rule` finds something in a file called `path` that holds `text`.
#[cfg(test)]
fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&File::new(path, text)).iter().map(|finding| finding.line).collect()
}
