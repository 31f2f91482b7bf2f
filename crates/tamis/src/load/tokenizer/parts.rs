//! What stands around the model of a tokenizer: normalizer, pre-tokenizer and decoder. Of the parts that the
//! `tokenizers` crate has, these are those that the supported families use; others are refused by name. Every part
//! says how much longer it makes a text, at most.

use serde::Deserialize;
use tokenizers::decoders::{self, DecoderWrapper};
use tokenizers::normalizers::{self, NormalizerWrapper, replace::ReplacePattern};
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::pre_tokenizers::{self, PreTokenizerWrapper};
use tokenizers::{SplitDelimiterBehavior, pre_tokenizers::byte_level};

use super::pattern::Pattern;
use super::{invalid, refused};
use crate::error::Result;

/// Most parts in a row; models have six.
const PARTS: usize = 32;
/// Most characters that are cut off the start of a text; models have one.
const STRIPPED: usize = 16;
/// Most bytes that one byte may become on its way in, or on its way out. SentencePiece's way in comes to 12.
const GROWTH: u64 = 64;

/// What a part, or several of them, costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    parts: usize,
    growth: u64,
}

impl Cost {
    fn of(growth: u64) -> Self {
        Self { parts: 1, growth }
    }
    /// One after the other.
    fn chain(costs: impl Iterator<Item = Result<Self>>) -> Result<Self> {
        let mut all = Self::of(1);
        for cost in costs {
            let cost = cost?;
            all.parts += cost.parts;
            all.growth = all.growth.saturating_mul(cost.growth);
        }
        Ok(all)
    }
    /// Refuses too many parts, and a text that comes out too long.
    pub(super) fn check(costs: impl Iterator<Item = Result<Self>>) -> Result<()> {
        let all = Self::chain(costs)?;
        if all.parts > PARTS {
            return Err(refused(format!("more than {PARTS} parts in a row")));
        }
        if all.growth > GROWTH {
            return Err(refused(format!(
                "a text that becomes {} times as long; at most {GROWTH} times is allowed",
                all.growth
            )));
        }
        Ok(())
    }
}

/// Cleans a text up before anything else.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    Sequence {
        normalizers: Vec<Normalizer>,
    },
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    #[serde(rename = "NFC")]
    Nfc,
}

impl Normalizer {
    pub(super) fn cost(&self) -> Result<Cost> {
        Ok(match self {
            Self::Sequence { normalizers } => Cost::chain(normalizers.iter().map(Self::cost))?,
            // Before every stretch between two added tokens, which may be one byte.
            Self::Prepend { prepend } => Cost::of(1 + prepend.len() as u64),
            Self::Replace { pattern, content } => {
                pattern.check()?;
                Cost::of(pattern.growth(content))
            }
            // Unicode Standard Annex 15: composed text has at most three times the bytes.
            Self::Nfc => Cost::of(3),
        })
    }

    pub(super) fn build(self) -> Result<NormalizerWrapper> {
        Ok(match self {
            Self::Sequence { normalizers } => {
                let parts: Result<_> = normalizers.into_iter().map(Self::build).collect();
                normalizers::Sequence::new(parts?).into()
            }
            Self::Prepend { prepend } => normalizers::Prepend::new(prepend).into(),
            Self::Replace { pattern, content } => replace(pattern, content)?.into(),
            Self::Nfc => normalizers::NFC.into(),
        })
    }
}

fn replace(pattern: Pattern, content: String) -> Result<normalizers::Replace> {
    let pattern = match pattern {
        Pattern::String(text) => ReplacePattern::String(text),
        Pattern::Regex(text) => ReplacePattern::Regex(text),
    };
    normalizers::Replace::new(pattern, content).map_err(|e| invalid(&e.to_string()))
}

/// Bytes written as visible characters.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct ByteLevel {
    pub(super) add_prefix_space: bool,
    pub(super) trim_offsets: bool,
    #[serde(default = "yes")]
    pub(super) use_regex: bool,
}

fn yes() -> bool {
    true
}

impl ByteLevel {
    /// As the models have it that GGUF files are made of.
    pub(super) fn of_gguf(use_regex: bool) -> Self {
        Self { add_prefix_space: false, trim_offsets: true, use_regex }
    }
    pub(super) fn build(self) -> byte_level::ByteLevel {
        byte_level::ByteLevel::new(self.add_prefix_space, self.trim_offsets, self.use_regex)
    }
}

/// Spaces written as a visible character.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Metaspace {
    replacement: char,
    #[serde(default = "always")]
    prepend_scheme: PrependScheme,
    split: Option<bool>,
    /// What older files have for `prepend_scheme`.
    add_prefix_space: Option<bool>,
}

fn always() -> PrependScheme {
    PrependScheme::Always
}

impl Metaspace {
    fn build(self) -> Result<pre_tokenizers::metaspace::Metaspace> {
        if self.add_prefix_space == Some(false) && self.prepend_scheme != PrependScheme::Never {
            return Err(invalid("Metaspace both has a prefix and has none"));
        }
        let split = self.split.unwrap_or(true);
        Ok(pre_tokenizers::metaspace::Metaspace::new(self.replacement, self.prepend_scheme, split))
    }
}

/// Cuts a text into the pieces that are merged for themselves.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PreTokenizer {
    Sequence { pretokenizers: Vec<PreTokenizer> },
    Split { pattern: Pattern, behavior: SplitDelimiterBehavior, invert: bool },
    Digits { individual_digits: bool },
    ByteLevel(ByteLevel),
    Metaspace(Metaspace),
}

impl PreTokenizer {
    pub(super) fn cost(&self) -> Result<Cost> {
        Ok(match self {
            Self::Sequence { pretokenizers } => Cost::chain(pretokenizers.iter().map(Self::cost))?,
            Self::Split { pattern, .. } => {
                pattern.check()?;
                Cost::of(1)
            }
            Self::Digits { .. } => Cost::of(1),
            // A byte is written in at most two, and there may be a space before it.
            Self::ByteLevel(part) => Cost::of(if part.add_prefix_space { 4 } else { 2 }),
            // Once for the space, once before the piece.
            Self::Metaspace(part) => Cost::of(2 * part.replacement.len_utf8() as u64),
        })
    }

    pub(super) fn build(self) -> Result<PreTokenizerWrapper> {
        Ok(match self {
            Self::Sequence { pretokenizers } => {
                let parts: Result<_> = pretokenizers.into_iter().map(Self::build).collect();
                pre_tokenizers::sequence::Sequence::new(parts?).into()
            }
            Self::Split { pattern, behavior, invert } => {
                let pattern = match pattern {
                    Pattern::String(text) => SplitPattern::String(text),
                    Pattern::Regex(text) => SplitPattern::Regex(text),
                };
                let split = pre_tokenizers::split::Split::new(pattern, behavior, invert);
                split.map_err(|e| invalid(&e.to_string()))?.into()
            }
            Self::Digits { individual_digits } => {
                pre_tokenizers::digits::Digits::new(individual_digits).into()
            }
            Self::ByteLevel(part) => part.build().into(),
            Self::Metaspace(part) => part.build()?.into(),
        })
    }
}

/// Makes a text of tokens again.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    Sequence { decoders: Vec<Decoder> },
    Replace { pattern: Pattern, content: String },
    ByteFallback,
    Fuse,
    Strip { content: char, start: usize, stop: usize },
    ByteLevel(ByteLevel),
    Metaspace(Metaspace),
}

impl Decoder {
    pub(super) fn cost(&self) -> Result<Cost> {
        Ok(match self {
            Self::Sequence { decoders } => Cost::chain(decoders.iter().map(Self::cost))?,
            Self::Replace { pattern, content } => {
                pattern.check()?;
                Cost::of(pattern.growth(content))
            }
            // The crate reads before the start of a token that is shorter than what is to be cut off its end.
            Self::Strip { stop, .. } if *stop > 0 => {
                return Err(refused("Strip at the end of a text".into()));
            }
            Self::Strip { start, .. } if *start > STRIPPED => {
                return Err(refused(format!("Strip of {start} characters")));
            }
            // A byte that is no text becomes U+FFFD.
            Self::ByteLevel(_) => Cost::of(3),
            Self::ByteFallback | Self::Fuse | Self::Strip { .. } | Self::Metaspace(_) => Cost::of(1),
        })
    }

    pub(super) fn build(self) -> Result<DecoderWrapper> {
        Ok(match self {
            Self::Sequence { decoders } => {
                let parts: Result<_> = decoders.into_iter().map(Self::build).collect();
                decoders::sequence::Sequence::new(parts?).into()
            }
            Self::Replace { pattern, content } => replace(pattern, content)?.into(),
            Self::ByteFallback => decoders::byte_fallback::ByteFallback::new().into(),
            Self::Fuse => decoders::fuse::Fuse::new().into(),
            Self::Strip { content, start, stop } => decoders::strip::Strip::new(content, start, stop).into(),
            Self::ByteLevel(part) => part.build().into(),
            Self::Metaspace(part) => part.build()?.into(),
        })
    }
}
