//! Relative links in Markdown lead to tracked files.
//!
//! Anchors and addresses are not followed. Links written as code are not links.

use super::Finding;
use super::file::File;

/// Links of a Markdown file whose target is not among the tracked `paths`.
pub(super) fn broken(file: &File, paths: &[String]) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut fenced = false;
    for (number, line) in file.lines() {
        let fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        fenced ^= fence;
        if fenced || fence {
            continue;
        }
        for target in targets(&without_code(line)) {
            if !leads_somewhere(file.path, target, paths) {
                findings.push(Finding::new(number, format!("link to `{target}`: no such tracked file")));
            }
        }
    }
    findings
}

/// The line with everything between backquotes left out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Targets of `[text](target "title")` and `[label]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline =
        line.split("](").skip(1).map(|after| after.split_once(')').map_or(after, |(inside, _)| inside));
    let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
    let all = inline.chain(definition.map(|(_, target)| target));
    all.filter_map(|target| target.split_whitespace().next())
        .map(|target| target.trim_start_matches('<').trim_end_matches('>'))
        .collect()
}

fn leads_somewhere(from: &str, target: &str, paths: &[String]) -> bool {
    let path = target.split('#').next().unwrap_or_default();
    if path.is_empty() || ["http:", "https:", "mailto:"].iter().any(|scheme| path.starts_with(scheme)) {
        return true;
    }
    let Some(wanted) = resolve(from, path) else { return false };
    let inside = |path: &String| path.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('/'));
    wanted.is_empty() || paths.iter().any(|path| *path == wanted || inside(path))
}

/// `target` as seen from the file `from`, relative to the root; `None` when it leaves the root.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken_lines(text: &str) -> Vec<usize> {
        let paths = ["README.md", "docs/log.md", "docs/a/b.md"].map(str::to_owned);
        broken(&File::new("docs/a/b.md", text), &paths).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn broken_links_are_found() {
        assert_eq!(broken_lines("[a](README.md)\n[b](../../../up.md) [c](../log.md)\n"), [1, 2]);
        assert_eq!(broken_lines("[a]: gone.md\n"), [1]);
    }

    #[test]
    fn good_links_pass() {
        assert_eq!(
            broken_lines("[a](../../README.md#top) [b](../log.md \"log\") [c](#here)\n"),
            [0_usize; 0]
        );
        assert_eq!(broken_lines("[a](https://example.org/x) [b](../../docs/) [c](../..)\n"), [0_usize; 0]);
        assert_eq!(broken_lines("[a]: <b.md>\n"), [0_usize; 0]);
    }

    #[test]
    fn code_holds_no_links() {
        assert_eq!(broken_lines("`[a](gone.md)`\n```\n[b](gone.md)\n```\n"), [0_usize; 0]);
    }
}
