//! Rules for every text file: paths of one machine, unfinished marks, whitespace.

use super::Finding;
use super::file::{File, words};

// Written in two halves, so that this file passes its own rules.
const MACHINE_FOLDERS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// No absolute path of the machine that somebody worked on.
pub(super) fn machine_paths(file: &File) -> Vec<Finding> {
    let guilty = file.lines().filter_map(|(number, line)| Some((number, machine_folder(line)?)));
    guilty
        .map(|(line, folder)| {
            Finding::new(line, format!("path of one machine (`{folder}`): make it relative"))
        })
        .collect()
}

fn machine_folder(line: &str) -> Option<&'static str> {
    // `../x/`, `~/x/`, `${base}/x/` and `https://host/x/` are not absolute.
    let continues = |c: char| c.is_alphanumeric() || "._~-}".contains(c);
    let absolute = |at: usize| !line[..at].chars().next_back().is_some_and(continues);
    MACHINE_FOLDERS.iter().copied().find(|folder| line.match_indices(folder).any(|(at, _)| absolute(at)))
}

/// No marks that promise work; write the work or an issue.
pub(super) fn marks(file: &File) -> Vec<Finding> {
    if file.is_data() {
        return Vec::new();
    }
    let found = |line: &str| MARKS.iter().copied().find(|mark| words(line, mark).next().is_some());
    let guilty = file.lines().filter_map(|(number, line)| Some((number, found(line)?)));
    guilty.map(|(line, mark)| Finding::new(line, format!("`{mark}`: do it or open an issue"))).collect()
}

/// No trailing whitespace; the last line ends with a newline.
pub(super) fn whitespace(file: &File) -> Vec<Finding> {
    if file.is_data() {
        return Vec::new();
    }
    let guilty = file.lines().filter(|(_, line)| line.ends_with(char::is_whitespace));
    let mut findings: Vec<_> = guilty.map(|(line, _)| Finding::new(line, "trailing whitespace")).collect();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::new(file.lines().count(), "no newline at the end of the file"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn machine_paths_are_refused() {
        let [first, second, third] = MACHINE_FOLDERS else { panic!("three folders") };
        let text = format!("a\ncd {first}x\n`{second}`\nfile://{third}me\n");
        assert_eq!(lines(machine_paths, "a.md", &text), [2, 3, 4]);
    }

    #[test]
    fn other_paths_pass() {
        let folder = MACHINE_FOLDERS[0];
        let text = format!("..{folder}x ~{folder}x ${{base}}{folder}x https://host{folder}x /usr/bin\n");
        assert_eq!(lines(machine_paths, "a.md", &text), [0_usize; 0]);
    }

    #[test]
    fn marks_are_refused() {
        let text = format!("// {}: later\n# {}\nTODOS are a word\n", MARKS[0], MARKS[1]);
        assert_eq!(lines(marks, "a.rs", &text), [1, 2]);
        assert_eq!(lines(marks, "tests/golden/a.txt", &text), [0_usize; 0]);
    }

    #[test]
    fn whitespace_is_clean() {
        assert_eq!(lines(whitespace, "a.md", "a \nb\t\nc\r\nd\n"), [1, 2, 3]);
        assert_eq!(lines(whitespace, "a.md", "a\nb"), [2]);
        assert_eq!(lines(whitespace, "a.md", "a\n\nb\n"), [0_usize; 0]);
        assert_eq!(lines(whitespace, "a.md", ""), [0_usize; 0]);
        assert_eq!(lines(whitespace, "snapshots/a.snap", "a "), [0_usize; 0]);
    }
}
