//! WikiText as text: rows, pages and detokenising, for the protocols that are defined on them.
//! Knows no tokenizer.
//!
//! WikiText (Merity 2016, arXiv 1609.07843) is one line a paragraph or heading, with spaces
//! around punctuation, ` @-@ ` for a hyphen inside a word and ` = Title = ` for a page's title.
//! [`pages`], [`detokenise`] and [`words`] follow the harness task `wikitext`
//! (`EleutherAI/wikitext_document_level` and `preprocess_wikitext.py`) step by step, slips
//! included: a figure that is to be compared must not correct its definition.

/// The text that the GPTQ, SparseGPT and Wanda scripts tokenise: the rows of the data set
/// joined by blank lines, made from the file `wiki.*.raw`.
///
/// A row is a line with its end, except that a blank line is an empty row; so this text has
/// more line ends than the file (GPT-2: 287,644 tokens for the test split).
pub fn joined_rows(file: &str) -> String {
    let rows: Vec<String> = file
        .strip_suffix('\n')
        .unwrap_or(file)
        .split('\n')
        .map(|line| if line.trim().is_empty() { String::new() } else { format!("{line}\n") })
        .collect();
    rows.join("\n\n")
}

/// Splits at titles: lines `= Title =` once headings of level 2 and 3 are set aside. Blank
/// pages before the first title are dropped.
pub fn pages(file: &str) -> Vec<String> {
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    for line in file.split('\n') {
        let heading = line.replace("= = =", "===").replace("= =", "==");
        let heading = heading.trim_matches(is_space);
        if heading.starts_with("= ") && heading.ends_with(" =") {
            push_page(&mut pages, &mut page);
        }
        page.push(line);
    }
    push_page(&mut pages, &mut page);
    pages
}

fn push_page(pages: &mut Vec<String>, page: &mut Vec<&str>) {
    let text = page.join("\n");
    page.clear();
    if !text.trim_matches(is_space).is_empty() {
        pages.push(text);
    }
}

/// Takes the spaces out again that WikiText's tokenising put in.
pub fn detokenise(page: &str) -> String {
    let mut text = page.replace("s '", "s'");
    text = literal_class(&text);
    for (from, to) in [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ] {
        text = text.replace(from, to);
    }
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        text = tighten(&text, open, close);
    }
    for (from, to) in [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// Words as the harness counts them: the pieces between runs of white space, which makes an
/// empty piece of white space at an end.
pub fn words(page: &str) -> usize {
    let mut runs = 0;
    let mut inside = false;
    for c in page.chars() {
        runs += usize::from(is_space(c) && !inside);
        inside = is_space(c);
    }
    runs + 1
}

/// White space as in Python's `\s`, which also holds four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The harness's `re.sub(r"/' [0-9]/", r"/'[0-9]/")`: the class stands in the replacement, so
/// a digit between slashes becomes the five characters `[0-9]`.
fn literal_class(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/' ") {
        let tail = &rest.as_bytes()[at + 3..];
        let matches = tail.len() >= 2 && tail[0].is_ascii_digit() && tail[1] == b'/';
        let (keep, skip) = if matches { (at, at + 5) } else { (at + 1, at + 1) };
        out.push_str(&rest[..keep]);
        if matches {
            out.push_str("/'[0-9]/");
        }
        rest = &rest[skip..];
    }
    out + rest
}

/// Trims the space inside each pair, where a pair is an `open` and the first `close` after it.
fn tighten(text: &str, open: char, close: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(open) {
        let inner = &rest[start + open.len_utf8()..];
        let Some(length) = inner.find(close) else { break };
        out.push_str(&rest[..start]);
        out.push(open);
        out.push_str(inner[..length].trim_matches(is_space));
        out.push(close);
        rest = &inner[length + close.len_utf8()..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_split_at_titles_only() {
        let file = " \n = First = \n \n Text . \n = = Part = = \n = = = Deep = = = \n = Second = \n More \n";
        let pages = pages(file);
        assert_eq!(pages.len(), 2);
        assert_eq!(pages[0], " = First = \n \n Text . \n = = Part = = \n = = = Deep = = = ");
        assert_eq!(pages[1], " = Second = \n More \n");
    }

    #[test]
    fn detokenise_follows_the_definition_step_by_step() {
        for (from, to) in [
            ("a guest @-@ starring role", "a guest-starring role"),
            ("1 @,@ 000 and 2 @.@ 5", "1,000 and 2.5"),
            ("yes , no ; so : on . Then ! And ? ok", "yes, no; so: on. Then! And? ok"),
            ("the ( very ( old ) one )", "the (very ( old) one )"),
            ("[ a ] { b } ( )", "[a] {b} ()"),
            ("said \" Craig \" in \" T \" .", "said \"Craig\" in \"T\" ."),
            ("Boulter 's play", "Boulter's play"),
            ("the actors ' guild ' s", "the actors'guild' s"),
            (" = = Part = = \n Text \n", " == Part ==\nText\n"),
            ("20 ° C, N dollars: N .", "20°C, 1 dollars: 1 ."),
            ("a/' 5/ b /' 55/ /' 7/", "a/'[0-9]/ b /' 55/ /'[0-9]/"),
            ("an ' open quote and ( bracket", "an ' open quote and ( bracket"),
        ] {
            assert_eq!(detokenise(from), to, "{from:?}");
        }
    }

    #[test]
    fn words_are_the_pieces_of_a_split() {
        for (page, count) in [("", 1), ("a", 1), ("a b", 2), (" a \n b ", 4), ("a\u{1d}b\u{a0}c", 3)] {
            assert_eq!(words(page), count, "{page:?}");
        }
    }

    /// The whole of WikiText-2, where `TAMIS_DATA` holds it: counts and hashes come from running
    /// the harness's Python on the same files, the row counts from the data set's card.
    #[test]
    fn whole_splits_agree_with_the_harness() {
        let Some(data) = crate::load::testdata::data("wikitext2") else { return };
        for (split, count, sum, pages_sha, rows_sha) in [
            ("test", 62, 241_335, "b0ae50e166add209", "696cca6b65a171b0"),
            ("valid", 60, 214_006, "d5bd98ccac4d0ffc", "b44fb967f92b5257"),
        ] {
            let path = data.join(format!("wiki.{split}.raw"));
            let file = std::fs::read_to_string(path).unwrap();
            let pages = pages(&file);
            assert_eq!((pages.len(), pages.iter().map(|p| words(p)).sum::<usize>()), (count, sum));
            let plain: Vec<String> = pages.iter().map(|p| detokenise(p)).collect();
            assert_eq!(sha256(&plain.join("\0")), pages_sha);
            assert_eq!(sha256(&joined_rows(&file)), rows_sha);
        }
    }

    /// The first eight bytes, in hexadecimal.
    fn sha256(text: &str) -> String {
        use sha2::Digest;
        sha2::Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn rows_are_joined_by_blank_lines() {
        assert_eq!(joined_rows(" \n = A = \n \n Text . \n"), "\n\n = A = \n\n\n\n\n Text . \n");
    }
}
