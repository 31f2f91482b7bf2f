//! Licence expressions: `(MIT OR Apache-2.0) AND Unicode-3.0`, and the older `MIT/Apache-2.0`.
//!
//! Source: annex D of the SPDX specification. What cannot be read is not allowed.

/// Whether somebody who accepts `allowed` may use what is under `expression`.
pub(super) fn allows(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// `a OR b`, which binds less than AND; none where it cannot be read.
fn either(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut any = both(rest, allowed)?;
    while let ["OR", after @ ..] = rest {
        *rest = after;
        any |= both(rest, allowed)?;
    }
    Some(any)
}

/// `a AND b`.
fn both(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut all = one(rest, allowed)?;
    while let ["AND", after @ ..] = rest {
        *rest = after;
        all &= one(rest, allowed)?;
    }
    Some(all)
}

/// A licence, with its exception as one name, or an expression in brackets.
fn one(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let is_allowed = |name: &str| allowed.iter().any(|allowed| allowed == name);
    match rest {
        ["(", after @ ..] => {
            *rest = after;
            let inner = either(rest, allowed)?;
            *rest = rest.strip_prefix(&[")"])?;
            Some(inner)
        }
        ["OR" | "AND" | "WITH" | ")", ..] | [] => None,
        [name, "WITH", exception, after @ ..] => {
            let name = format!("{name} WITH {exception}");
            *rest = after;
            Some(is_allowed(&name))
        }
        [name, after @ ..] => {
            let found = is_allowed(name);
            *rest = after;
            Some(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_they_bind() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned);
        for yes in [
            "MIT",
            "GPL-3.0 OR MIT",
            "Unlicense/MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "GPL-3.0 AND GPL-2.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(allows(yes, &allowed), "{yes}");
        }
        for no in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT MIT",
            "AND",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR Apache-2.0) AND GPL-3.0",
        ] {
            assert!(!allows(no, &allowed), "{no}");
        }
    }
}
