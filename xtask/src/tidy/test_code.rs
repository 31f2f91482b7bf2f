//! Which lines of a Rust file are compiled for tests only.

use super::file::{File, words};

/// One flag a line: true inside an item under `#[cfg(test)]` or `#[test]`.
pub(super) fn lines(file: &File) -> Vec<bool> {
    if file.is_test() {
        return file.code().map(|_| true).collect();
    }
    let mut open: Option<Item> = None;
    let mut flags = Vec::new();
    for (_, line) in file.code() {
        let mut body = line;
        if open.is_none() && is_test_attribute(line) {
            open = Some(Item::default());
            body = line.split_once(']').map_or("", |(_, after)| after);
        }
        flags.push(open.is_some());
        if open.as_mut().is_some_and(|item| item.ends_in(body)) {
            open = None;
        }
    }
    flags
}

fn is_test_attribute(line: &str) -> bool {
    let line = line.trim_start();
    let conditional = line.starts_with("#[cfg(") && !line.contains("not(test");
    (conditional || line.starts_with("#[test]")) && words(line, "test").next().is_some()
}

/// An item being read, counting its open brackets.
#[derive(Default)]
struct Item {
    depth: usize,
}

impl Item {
    /// Whether the item ends in this line: at its closing brace, or at `;` before any bracket.
    fn ends_in(&mut self, line: &str) -> bool {
        for c in line.chars() {
            match c {
                '(' | '[' | '{' => self.depth += 1,
                ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth == 0 && matches!(c, '}' | ';') {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{File, lines};

    fn flags(text: &str) -> Vec<bool> {
        lines(&File::new("src/a.rs", text))
    }

    #[test]
    fn a_test_module_ends_at_its_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b(x: [u8; 4]) {}\n}\nfn c() {}\n";
        assert_eq!(flags(text), [false, true, true, true, true, false]);
    }

    #[test]
    fn a_declaration_ends_at_its_semicolon() {
        assert_eq!(flags("#[cfg(test)]\nmod tests;\nfn a() {}\n"), [true, true, false]);
    }

    #[test]
    fn other_conditions_are_no_tests() {
        assert_eq!(flags("#[cfg(not(test))]\nfn a() {}\n"), [false, false]);
        assert_eq!(flags("#[cfg(all(test, unix))]\nfn a() {}\n"), [true, true]);
    }

    #[test]
    fn test_files_are_tests_throughout() {
        assert_eq!(lines(&File::new("crates/a/benches/b.rs", "fn a() {}\n")), [true]);
    }
}
