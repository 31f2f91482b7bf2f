//! Globs on dotted tensor names: `*` stands for any characters inside one component,
//! `**` for any characters at all, `?` for one character that is not a dot.

use serde::{Serialize, Serializer};

use crate::error::{Error, Kind, Result};

/// A checked glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Longest pattern; tensor names are far shorter.
const MAX_LENGTH: usize = 512;

impl Pattern {
    /// Checks a glob. A final `.weight` is dropped: linears are named without it.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.strip_suffix(".weight").unwrap_or(text);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-*?".contains(c);
        if text.is_empty() || text.len() > MAX_LENGTH || !text.chars().all(allowed) {
            let problem = format!("{text:?} is no pattern of tensor names");
            return Err(Error::new(Kind::Recipe, problem).next(
                "names consist of letters, digits, `_`, `-` and dots; `*`, `**` and `?` are wildcards",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The glob as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        // reach[i]: the pattern read so far can match name[..i].
        let (name, mut rest) = (name.as_bytes(), self.0.as_bytes());
        let mut reach = vec![false; name.len() + 1];
        reach[0] = true;
        while let Some(&first) = rest.first() {
            let deep = rest.starts_with(b"**");
            rest = &rest[1 + usize::from(deep)..];
            if first == b'*' {
                for i in 0..name.len() {
                    reach[i + 1] |= reach[i] && (deep || name[i] != b'.');
                }
            } else {
                for i in (0..name.len()).rev() {
                    let same = if first == b'?' { name[i] != b'.' } else { name[i] == first };
                    reach[i + 1] = reach[i] && same;
                }
                reach[0] = false;
            }
        }
        reach[name.len()]
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_dots_and_double_stars_do_not() {
        let name = "model.layers.11.mlp.down_proj";
        let yes = ["model.layers.*.mlp.down_proj", "**.down_proj", "model.layers.1?.*.*", "**", name];
        let no = ["*", "*.down_proj", "model.layers.?.mlp.down_proj", "model.**.up_proj", "down_proj"];
        for pattern in yes {
            assert!(Pattern::new(pattern).unwrap().matches(name), "{pattern}");
        }
        for pattern in no {
            assert!(!Pattern::new(pattern).unwrap().matches(name), "{pattern}");
        }
        assert!(Pattern::new("**.down_proj.weight").unwrap().matches(name));
    }

    #[test]
    fn odd_patterns_are_refused() {
        for pattern in ["", "a b", "[ab]", "{a,b}", &"*".repeat(513)] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
