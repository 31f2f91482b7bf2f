//! The model inside a tokenizer: byte-pair encoding. Every token has its own number, and a merge joins two tokens to
//! one that is there.
//!
//! Source: Sennrich, Haddow and Birch 2015, arXiv 1508.07909.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use tokenizers::models::bpe::{BPE, Vocab};

use super::{invalid, refused};
use crate::error::Result;

/// Most tokens, and the end of their numbers. The largest vocabulary in use has 262,208.
pub(super) const TOKENS: usize = 1 << 20;
/// Most merges; Gemma has 514,906, and a SentencePiece vocabulary more than one a token.
const MERGES: usize = 1 << 22;
/// Longest token in bytes.
pub(super) const TOKEN_BYTES: usize = 1024;

/// A byte-pair encoding, as `tokenizer.json` writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Model {
    pub(super) dropout: Option<f64>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) fuse_unk: Option<bool>,
    pub(super) byte_fallback: Option<bool>,
    pub(super) ignore_merges: Option<bool>,
    #[serde(deserialize_with = "vocab")]
    pub(super) vocab: Vec<(String, u32)>,
    #[serde(deserialize_with = "merges")]
    pub(super) merges: Vec<(String, String)>,
}

impl Model {
    /// Checks everything and hands it over.
    pub(super) fn build(self) -> Result<BPE> {
        if self.dropout.is_some_and(|share| share != 0.0) {
            return Err(refused("dropout, which gives other tokens every time".into()));
        }
        let affixes = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
            return Err(refused("marks for the middle or the end of a word".into()));
        }
        self.check_tokens()?;
        self.check_merges()?;
        let vocab: Vocab = self.vocab.into_iter().collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, self.merges)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        // Empty ones mean nothing, but are written again as they were read.
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|e| invalid(&e.to_string()))
    }

    fn check_tokens(&self) -> Result<()> {
        if self.vocab.is_empty() || self.vocab.len() > TOKENS {
            return Err(invalid(&format!("{} tokens; 1 to {TOKENS} are read", self.vocab.len())));
        }
        let mut taken = vec![false; TOKENS];
        for (token, id) in &self.vocab {
            if token.len() > TOKEN_BYTES {
                let length = token.len();
                return Err(invalid(&format!(
                    "token {id} has {length} bytes; at most {TOKEN_BYTES} are read"
                )));
            }
            match taken.get_mut(*id as usize) {
                None => return Err(invalid(&format!("token {token:?} has the number {id}, past {TOKENS}"))),
                Some(true) => return Err(invalid(&format!("two tokens have the number {id}"))),
                Some(free) => *free = true,
            }
        }
        Ok(())
    }

    fn check_merges(&self) -> Result<()> {
        if self.merges.len() > MERGES {
            return Err(invalid(&format!("{} merges; at most {MERGES} are read", self.merges.len())));
        }
        let tokens: HashSet<&str> = self.vocab.iter().map(|(token, _)| token.as_str()).collect();
        if tokens.len() < self.vocab.len() {
            return Err(invalid("a token is in the vocabulary twice"));
        }
        let mut both = String::new();
        for (left, right) in &self.merges {
            both.clear();
            both.extend([left.as_str(), right.as_str()]);
            if ![left.as_str(), right, &both].iter().all(|token| tokens.contains(token)) {
                return Err(invalid(&format!(
                    "the merge of {left:?} and {right:?} has to do with what is no token"
                )));
            }
        }
        Ok(())
    }
}

fn vocab<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u32)>, D::Error> {
    from.deserialize_map(Pairs)
}

/// A map of tokens and numbers as a list, of no more than may be.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, u32)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tokens with their numbers")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            if pairs.len() == TOKENS {
                return Err(A::Error::custom(format!("more than {TOKENS} tokens")));
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

fn merges<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    from.deserialize_seq(Merges)
}

/// A list of merges, of no more than may be.
struct Merges;

impl<'de> Visitor<'de> for Merges {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut merges = Vec::new();
        while let Some(merge) = list.next_element_seed(Merge)? {
            if merges.len() == MERGES {
                return Err(A::Error::custom(format!("more than {MERGES} merges")));
            }
            merges.extend(merge);
        }
        Ok(merges)
    }
}

/// One merge: a list of two, or a line `left right`. None for the line that names the version.
struct Merge;

impl<'de> DeserializeSeed<'de> for Merge {
    type Value = Option<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge {
    type Value = Option<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge of two tokens")
    }
    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Self::Value, E> {
        if line.starts_with("#version") {
            return Ok(None);
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Some((left.to_owned(), right.to_owned()))),
            _ => Err(E::custom(format!("merge {line:?} is not a pair"))),
        }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let pair = (list.next_element()?, list.next_element()?);
        match (pair, list.next_element::<serde::de::IgnoredAny>()?) {
            ((Some(left), Some(right)), None) => Ok(Some((left, right))),
            _ => Err(A::Error::custom("a merge that is not of two tokens")),
        }
    }
}
