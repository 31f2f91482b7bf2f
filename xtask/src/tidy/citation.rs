//! A compression method names where it comes from.

use super::Finding;
use super::file::File;

/// Folders in which every file is somebody's method.
const CITED: &[&str] = &["crates/tamis/src/compress/"];

/// Wants an arXiv id (`2210.17323`) or a line with `Source:` in a comment.
pub(super) fn missing(file: &File) -> Vec<Finding> {
    let wanted = file.is_rust()
        && CITED.iter().any(|folder| file.path.starts_with(folder))
        && !file.path.ends_with("/mod.rs")
        && !file.is_test();
    if !wanted || file.comments().any(|(_, line)| line.contains("Source:") || has_arxiv_id(line)) {
        return Vec::new();
    }
    vec![Finding::new(1, "no citation: give the arXiv id, or a line `Source: ...`, in a comment")]
}

/// Whether four digits, a dot and five digits stand in the line by themselves.
fn has_arxiv_id(line: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    line.match_indices('.').any(|(dot, _)| {
        let before = dot.checked_sub(4).and_then(|start| line.get(start..dot));
        let after = line.get(dot + 1..dot + 6);
        let ends = |byte: Option<&u8>| !byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = line.as_bytes();
        before.is_some_and(digits)
            && after.is_some_and(digits)
            && (dot == 4 || ends(bytes.get(dot - 5)))
            && ends(bytes.get(dot + 6).filter(|&&byte| byte != b'v'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    const METHOD: &str = "crates/tamis/src/compress/gptq.rs";

    #[test]
    fn a_method_without_citation_is_refused() {
        assert_eq!(lines(missing, METHOD, "//! Column by column.\n"), [1]);
        assert_eq!(lines(missing, METHOD, "//! A.\nconst A: f64 = 2210.17323;\n"), [1]);
        assert_eq!(lines(missing, METHOD, "//! See 12210.17323 and 2210.173.\n"), [1]);
    }

    #[test]
    fn a_cited_method_passes() {
        assert_eq!(lines(missing, METHOD, "//! Frantar 2022, arXiv:2210.17323.\n"), [0_usize; 0]);
        assert_eq!(lines(missing, METHOD, "//! GPTQ (2210.17323v2)\n"), [0_usize; 0]);
        assert_eq!(lines(missing, METHOD, "//! Source: Hassibi and Stork, 1992.\n"), [0_usize; 0]);
    }

    #[test]
    fn only_methods_are_asked() {
        assert_eq!(lines(missing, "crates/tamis/src/compress/mod.rs", "//! A.\n"), [0_usize; 0]);
        assert_eq!(lines(missing, "crates/tamis/src/compress/tests.rs", "//! A.\n"), [0_usize; 0]);
        assert_eq!(lines(missing, "crates/tamis/src/units.rs", "//! A.\n"), [0_usize; 0]);
    }
}
