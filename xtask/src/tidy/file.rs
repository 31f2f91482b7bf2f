//! One file under inspection: its path, its text and, for Rust, code apart from comments.

use super::lexer::{self, Split};

/// Folders whose files are recorded data: their bytes are evidence, not style.
const DATA_FOLDERS: &[&str] = &["corpus", "fixtures", "golden", "nano-model", "snapshots"];
/// What stays source wherever it lies.
const SOURCE_ENDINGS: &[&str] = &[".rs", ".md", ".py", ".sh", ".toml"];

pub(super) struct File<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    /// Empty for anything that is not Rust.
    pub(super) split: Split,
}

impl<'a> File<'a> {
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        let split = if path.ends_with(".rs") { lexer::split(text) } else { Split::default() };
        Self { path, text, split }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their number, counted from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        numbered(self.text)
    }

    /// Lines of Rust code, comments and literals blanked.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.split.code)
    }

    /// Lines of Rust comments, everything else blanked.
    pub(super) fn comments(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.split.comments)
    }

    /// Whether this is a test file: `tests.rs` or anything in a folder `tests` or `benches`.
    pub(super) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.folders().any(|name| name == "tests" || name == "benches")
    }

    /// Whether this is recorded data, which keeps its bytes.
    pub(super) fn is_data(&self) -> bool {
        self.folders().any(|name| DATA_FOLDERS.contains(&name))
            && !SOURCE_ENDINGS.iter().any(|ending| self.path.ends_with(ending))
    }

    fn folders(&self) -> impl Iterator<Item = &'a str> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.split('/')
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_terminator('\n').enumerate().map(|(index, line)| (index + 1, line))
}

/// Byte offsets at which `word` stands in `line` as a whole word.
pub(super) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !line[..at].chars().next_back().is_some_and(joins)
            && !line[at + word.len()..].chars().next().is_some_and(joins)
    })
}

#[cfg(test)]
mod tests {
    use super::{File, words};

    #[test]
    fn words_are_whole() {
        assert_eq!(words("unsafe { unsafe_code } (unsafe)", "unsafe").collect::<Vec<_>>(), [0, 24]);
    }

    #[test]
    fn data_keeps_its_bytes_but_source_does_not() {
        assert!(File::new("crates/tamis/tests/golden/logits.json", "").is_data());
        assert!(!File::new("crates/tamis/tests/golden/README.md", "").is_data());
        assert!(!File::new("golden.json", "").is_data());
    }
}
