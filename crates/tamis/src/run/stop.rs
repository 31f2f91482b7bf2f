//! Stop strings in streamed text: what comes before one is emitted, nothing of it or after it
//! ever is, although it may arrive in pieces. Knows no tokens.

use crate::error::{Error, Result};

/// Text that waits because it could be the beginning of a stop string.
#[derive(Debug, Clone)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    pending: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passed {
    /// Text that no stop string can claim any more.
    pub(super) text: String,
    /// The stop string that was found, after which nothing may be pushed.
    pub(super) stop: Option<String>,
}

impl StopFilter {
    /// Errors on an empty stop string, which would stop everywhere.
    pub(super) fn new(stops: &[String]) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::usage("a stop string is empty").next("leave it out"));
        }
        Ok(Self { stops: stops.to_vec(), pending: String::new() })
    }

    /// Takes the next piece of text.
    pub(super) fn push(&mut self, piece: &str) -> Passed {
        self.pending.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| Some((self.pending.find(stop.as_str())?, stop)));
        if let Some((at, stop)) = found.min_by_key(|(at, _)| *at) {
            let stop = Some(stop.clone());
            let text = self.pending[..at].to_owned();
            self.pending.clear();
            return Passed { text, stop };
        }
        let keep = self.waiting_from();
        let rest = self.pending.split_off(keep);
        Passed { text: std::mem::replace(&mut self.pending, rest), stop: None }
    }

    /// What still waits, when no more text comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }

    /// Begin of the longest end of `pending` that begins a stop string.
    fn waiting_from(&self) -> usize {
        let begins_a_stop = |at: &usize| self.stops.iter().any(|s| s.starts_with(&self.pending[*at..]));
        self.pending.char_indices().map(|(at, _)| at).find(begins_a_stop).unwrap_or(self.pending.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    /// All text that came out, and the stop.
    fn feed(mut filter: StopFilter, pieces: &[&str]) -> (String, Option<String>) {
        let mut out = String::new();
        for piece in pieces {
            let passed = filter.push(piece);
            out += &passed.text;
            if passed.stop.is_some() {
                return (out, passed.stop);
            }
        }
        (out + &filter.finish(), None)
    }

    #[test]
    fn a_stop_may_span_pieces() {
        assert_eq!(feed(filter(&["END"]), &["aE", "N", "Db"]), ("a".into(), Some("END".into())));
        assert_eq!(feed(filter(&["END"]), &["aE", "Nb", "EN"]), ("aENbEN".into(), None));
        assert_eq!(feed(filter(&["aab"]), &["a", "a", "a", "b"]), ("a".into(), Some("aab".into())));
        assert_eq!(feed(filter(&["äö", "ö"]), &["xä", "ö"]), ("x".into(), Some("äö".into())));
    }

    #[test]
    fn text_waits_no_longer_than_it_must() {
        let mut filter = filter(&["\nUser:"]);
        assert_eq!(filter.push("hello\n").text, "hello");
        assert_eq!(filter.push("Us").text, "");
        assert_eq!(filter.push("ual").text, "\nUsual");
    }

    #[test]
    fn an_empty_stop_is_refused() {
        assert!(StopFilter::new(&[String::new()]).is_err());
    }

    proptest! {
        /// Cutting the text differently changes nothing.
        #[test]
        fn pieces_do_not_matter(pieces in prop::collection::vec("[abä]{0,3}", 0..8)) {
            let whole: String = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            for stops in [vec!["aba"], vec!["bä", "abb"], vec!["aaab", "ä"]] {
                let got = feed(filter(&stops), &pieces);
                prop_assert_eq!(&got, &feed(filter(&stops), &[whole.as_str()]));
                let first = stops.iter().filter_map(|s| whole.find(s)).min();
                prop_assert_eq!(got.0.as_str(), &whole[..first.unwrap_or(whole.len())]);
            }
        }
    }
}
