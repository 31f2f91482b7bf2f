//! Splits Rust source into code and comments; literals belong to neither.
//!
//! Not a parser: it knows the five places where a quote or a slash changes meaning
//! (line and nested block comments, strings, raw strings, characters against lifetimes).

/// Two texts as long as the source, line by line, each blank where the other speaks.
#[derive(Default)]
pub(super) struct Split {
    pub(super) code: String,
    pub(super) comments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub(super) fn split(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let mut rest = chars.as_slice();
    let mut out = Split::default();
    while !rest.is_empty() {
        let (kind, length) = token(rest);
        let (token, after) = rest.split_at(length.min(rest.len()));
        for &c in token {
            let keep = |wanted| if kind == wanted || c == '\n' { c } else { ' ' };
            out.code.push(keep(Kind::Code));
            out.comments.push(keep(Kind::Comment));
        }
        rest = after;
    }
    out
}

/// Kind and length of the token that `rest` begins with.
fn token(rest: &[char]) -> (Kind, usize) {
    if let Some(length) = raw_string(rest) {
        return (Kind::Literal, length);
    }
    match rest {
        ['/', '/', ..] => (Kind::Comment, rest.iter().take_while(|&&c| c != '\n').count()),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::Literal, quoted(rest, '"')),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => (Kind::Literal, quoted(rest, '\'')),
        [c, ..] if is_word(*c) => (Kind::Code, rest.iter().take_while(|&&c| is_word(c)).count()),
        _ => (Kind::Code, 1),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of a literal between two `quote`s, escapes skipped.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of `r"..."`, `r#"..."#`, `br"..."` and the like; `None` for anything else.
fn raw_string(rest: &[char]) -> Option<usize> {
    let start = match rest {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[start..].iter().take_while(|&&c| c == '#').count();
    let open = start + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| rest[at] == '"' && rest[at + 1..].iter().take(hashes).all(|&c| c == '#');
    let end = (open + 1..rest.len()).find(|&at| closes(at)).unwrap_or(rest.len());
    Some(end + 1 + hashes)
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::split;

    fn code(text: &str) -> String {
        split(text).code
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("a\"b", x)"#), "f(      , x)");
        assert_eq!(code("f(br#\"a\"b\"#, x)"), "f(         , x)");
        assert_eq!(code(r"f('\'', '/', b'x')"), "f(    ,    , b   )");
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        assert_eq!(code("&'a str; r#fn; for"), "&'a str; r#fn; for");
    }

    #[test]
    fn comments_are_kept_in_place() {
        assert_eq!(split("a // \"b\"\n").comments, "  // \"b\"\n");
    }

    #[test]
    fn unfinished_literals_end_with_the_file() {
        for text in ["\"a", "r#\"a", "r#\"a\"", "/* a", "'\\", "\"\\"] {
            assert_eq!(code(text).trim(), "", "{text}");
            assert_eq!(code(text).chars().count(), text.chars().count(), "{text}");
        }
    }
}
