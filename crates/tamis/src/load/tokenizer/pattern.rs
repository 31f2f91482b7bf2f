//! The patterns of a tokenizer: literal text, or an expression. The engine of `tokenizers` backtracks where an
//! expression looks around or back, and when it has had enough of that it stops cutting without a word. So an
//! expression here is one that an engine without backtracking takes too, but for one alternative that nearly every
//! tokenizer has.

use regex::RegexBuilder;
use serde::Deserialize;

use super::refused;
use crate::error::Result;

/// Blanks but for the last before a word: the one look-around that is allowed, as an alternative of its own.
const ALL_BLANKS_BUT_ONE: &str = r"\s+(?!\S)";
/// Longest pattern in bytes; Mistral's longest has 270.
const LENGTH: usize = 4096;
/// Largest compiled expression in bytes; those in use stay below 1 MiB.
const COMPILED: usize = 4 << 20;
/// Deepest nesting of groups.
const NESTING: u32 = 16;

/// What a text is searched for, as `tokenizer.json` writes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) enum Pattern {
    String(String),
    Regex(String),
}

impl Pattern {
    /// Refuses what may take long, or means something else to an engine that backtracks.
    pub(super) fn check(&self) -> Result<()> {
        let (Self::String(text) | Self::Regex(text)) = self;
        if text.is_empty() || text.len() > LENGTH {
            return Err(refused(format!("a pattern of {} bytes; 1 to {LENGTH} are read", text.len())));
        }
        match self {
            Self::String(_) => Ok(()),
            Self::Regex(text) if is_plain(text) => Ok(()),
            Self::Regex(text) => {
                Err(refused(format!("pattern {text:?}: not an expression that can be kept short in time")))
            }
        }
    }

    /// Bytes of the result for each byte of a text in which every match becomes `content`. An expression may match
    /// nothing, between any two bytes.
    pub(super) fn growth(&self, content: &str) -> u64 {
        match self {
            Self::String(text) => content.len().div_ceil(text.len().max(1)).max(1) as u64,
            Self::Regex(_) => content.len() as u64 + 1,
        }
    }
}

/// Whether each part between [`ALL_BLANKS_BUT_ONE`] compiles without look-around. A part has to compile alone, so the
/// exception cannot stand in a group, where it could be repeated.
fn is_plain(pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split(ALL_BLANKS_BUT_ONE).collect();
    parts.iter().enumerate().all(|(i, part)| {
        let part = if i == 0 { Some(*part) } else { end_of_alternative(part) };
        let last = i + 1 == parts.len();
        let part = part.and_then(|p| if last || p.is_empty() { Some(p) } else { p.strip_suffix('|') });
        part.is_some_and(|part| means_the_same_to_both(part) && compiles(part))
    })
}

/// What follows the `|` that must come next, if anything comes.
fn end_of_alternative(part: &str) -> Option<&str> {
    if part.is_empty() { Some(part) } else { part.strip_prefix('|') }
}

/// Whether nothing is in the text that is an atomic group, a comment or a mode to one engine only.
fn means_the_same_to_both(part: &str) -> bool {
    let outline = outline(part);
    let repeated_twice = ["++", "*+", "?+", "}+"].iter().any(|twice| outline.contains(twice));
    let groups = outline.match_indices("(?").all(|(at, _)| {
        let kind = &outline[at + 2..];
        kind.starts_with(':') || kind.starts_with("i:")
    });
    // A class that begins with its own end is read in two ways.
    groups && !repeated_twice && !part.contains("[]") && !part.contains("[^]")
}

/// An expression with `x` for every class and every escaped character.
fn outline(part: &str) -> String {
    let (mut outline, mut depth) = (String::new(), 0_u32);
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => pass_escape(&mut chars),
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            outline.push(if matches!(c, '\\' | ']') { 'x' } else { c });
        }
    }
    outline
}

/// Goes past what follows a backslash: a character, or the name of a class in braces.
fn pass_escape(chars: &mut std::str::Chars<'_>) {
    let named = matches!(chars.next(), Some('p' | 'P' | 'x' | 'u' | 'U'));
    if named && chars.as_str().starts_with('{') {
        chars.find(|c| *c == '}');
    }
}

fn compiles(part: &str) -> bool {
    RegexBuilder::new(part).size_limit(COMPILED).nest_limit(NESTING).build().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

    #[test]
    fn patterns_of_models_pass() {
        for pattern in
            [TEKKEN, GPT2, r"\p{N}{1,3}", r"[一-龥]+", r"\s?\p{P}+", DEEPSEEK, r"[^(\s|[.,!?…。，、।۔،])]+"]
        {
            Pattern::Regex(pattern.into()).check().unwrap();
        }
        Pattern::String("(*".into()).check().unwrap();
    }

    #[test]
    fn patterns_that_may_backtrack_are_refused() {
        for pattern in [
            r"(a*)*b(?!c)",
            r"(a)\1",
            r"(?>a+)b",
            r"a++b",
            r"(?=a)a",
            r"(?<!a)b",
            r"(x|\s+(?!\S)|y*)*",
            r"\s+(?!\S)*",
            r"\s+(?!\S)a",
            r"a\s+(?!\S)",
            r"a\|\s+(?!\S)",
            r"[|\s+(?!\S)|]",
            r"(?x)# (a*)*(?!b)",
            r"a{1000}{1000}{1000}",
            "",
            "(",
        ] {
            let error = Pattern::Regex(pattern.into()).check().expect_err(pattern);
            assert_eq!(error.exit_code(), 65);
        }
        assert!(Pattern::Regex("(".repeat(2000) + &")".repeat(2000)).check().is_err());
        assert!(Pattern::String("a".repeat(LENGTH + 1)).check().is_err());
    }

    #[test]
    fn growth_covers_every_match() {
        assert_eq!(Pattern::String(" ".into()).growth("▁"), 3);
        assert_eq!(Pattern::String("▁".into()).growth(" "), 1);
        assert_eq!(Pattern::Regex("b?".into()).growth("xx"), 3); // "a" becomes "xxaxx"
    }
}
