//! No file, folder or module with a name that says nothing.

use super::Finding;
use super::file::{File, words};

const VAGUE: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc"];

/// Path components and `mod` declarations that are on the list.
pub(super) fn vague(file: &File) -> Vec<Finding> {
    let parts = file.path.split('/').map(|part| part.split_once('.').map_or(part, |(stem, _)| stem));
    let in_path = parts.filter(|part| VAGUE.contains(part)).map(|name| (1, name));
    let in_code = file.code().filter_map(|(number, line)| Some((number, declared(line)?)));
    in_path
        .chain(in_code)
        .map(|(line, name)| Finding::new(line, format!("`{name}` says nothing: name it by what it holds")))
        .collect()
}

/// The vague name that this line declares a module by.
fn declared(line: &str) -> Option<&'static str> {
    words(line, "mod").find_map(|at| {
        let name = line[at + "mod".len()..].trim_start();
        VAGUE.iter().copied().find(|vague| words(name, vague).next() == Some(0))
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn vague_names_are_refused() {
        assert_eq!(lines(vague, "src/utils.rs", ""), [1]);
        assert_eq!(lines(vague, "tests/common/mod.rs", ""), [1]);
        assert_eq!(lines(vague, "src/lib.rs", "//! A.\npub mod helpers;\n"), [2]);
    }

    #[test]
    fn speaking_names_pass() {
        assert_eq!(lines(vague, "src/commons.rs", "mod misc_costs; // mod misc\n"), [0_usize; 0]);
    }
}
