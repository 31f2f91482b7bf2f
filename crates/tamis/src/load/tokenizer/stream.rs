//! Incremental decoding: text as soon as it is whole.
//!
//! A token may end inside a UTF-8 character, and a decoder may treat the first token
//! of a text differently (a leading space is dropped). So each step decodes a short
//! window twice, without and with the new tokens, and hands out the difference.

use super::{SpecialText, Tokenizer};
use crate::error::Result;

/// Most tokens that are held back: the bytes of a character are four, and some tokens say nothing.
const HELD: usize = 16;

/// Turns ids into text one at a time.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    special: SpecialText,
    ids: Vec<u32>,
    /// Tokens of `ids` whose text has been handed out.
    done: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, special: SpecialText) -> Self {
        Self { tokenizer, special, ids: Vec::new(), done: 0 }
    }
    /// Adds a token; returns the text that it completes, often empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let new = self.pending()?;
        // U+FFFD at the end is most likely a character whose bytes are not all there yet.
        let held = self.ids.len() - self.done;
        if held < HELD && (new.is_empty() || new.ends_with('\u{fffd}')) {
            return Ok(String::new());
        }
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(new)
    }
    /// What is left when no more tokens come.
    pub fn finish(mut self) -> Result<String> {
        let rest = self.pending()?;
        self.ids.clear();
        Ok(rest)
    }

    /// Tokens that the next step decodes again.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.ids.len()
    }

    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.done], self.special)?;
        let all = self.tokenizer.decode(&self.ids, self.special)?;
        Ok(all.strip_prefix(&before).unwrap_or_default().to_string())
    }
}
