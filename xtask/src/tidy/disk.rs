//! The file system has one room: files are opened, listed and written in `crates/tamis/src/disk/` alone, because
//! what lies on a disk is hostile, and what is left there must be whole.

use super::file::{File, words};
use super::{Finding, test_code};

const HOME: &str = "crates/tamis/src/disk/";
/// Whose production code has no other door.
const ROOMS: &[&str] = &["crates/tamis/src/", "crates/tamis-cli/src/"];
/// A module or a type that opens files, followed by `::`.
const DOORS: &[&str] = &["fs", "File", "OpenOptions"];
/// Methods of paths that do the same.
const METHODS: &[&str] = &["read_dir", "read_link", "symlink_metadata"];

/// Wants the functions of `disk/` instead.
pub(super) fn elsewhere(file: &File) -> Vec<Finding> {
    let watched = ROOMS.iter().any(|room| file.path.starts_with(room)) && !file.path.starts_with(HOME);
    // Tests may lie in a sibling file of their own.
    if !watched || file.path.ends_with("_tests.rs") {
        return Vec::new();
    }
    let for_tests = test_code::lines(file);
    let opens = |line: &str| {
        let follows = |word: &str, at: usize, what: &str| line[at + word.len()..].starts_with(what);
        DOORS.iter().any(|word| words(line, word).any(|at| follows(word, at, "::")))
            || METHODS.iter().any(|word| words(line, word).any(|at| follows(word, at, "(")))
            || (line.contains("std::fs") && words(line, "fs").next().is_some())
    };
    file.code()
        .filter(|&(number, line)| !for_tests[number - 1] && opens(line))
        .map(|(number, _)| Finding::new(number, format!("the file system is reached through {HOME} only")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn files_are_opened_in_one_room() {
        let text =
            "use std::fs;\nlet a = fs::read(p);\nlet b = File::open(p);\np.read_dir();\nDataFile::open(p);\n";
        assert_eq!(lines(elsewhere, "crates/tamis/src/load/a.rs", text), [1, 2, 3, 4]);
        assert_eq!(lines(elsewhere, "crates/tamis-cli/src/main.rs", "use std::fs::File;\n"), [1]);
        let none = [0_usize; 0];
        assert_eq!(lines(elsewhere, "crates/tamis/src/disk/file.rs", text), none);
        assert_eq!(lines(elsewhere, "crates/tamis/src/load/open_tests.rs", text), none);
        assert_eq!(lines(elsewhere, "crates/tamis/src/artifact/tests/a.rs", text), none);
        assert_eq!(lines(elsewhere, "crates/tamis/tests/it/a.rs", text), none);
        assert_eq!(lines(elsewhere, "xtask/src/a.rs", text), none);
    }

    #[test]
    fn tests_may_do_as_they_like() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { std::fs::read(p); }\n}\n";
        assert_eq!(lines(elsewhere, "crates/tamis/src/a.rs", text), [0_usize; 0]);
    }
}
