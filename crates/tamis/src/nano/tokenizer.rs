//! Trains the tokenizer of the small model: byte-level BPE, every digit a token of its own.
//! Knows texts only.
//!
//! # Same texts, same bytes
//!
//! The trainer counts words in hash maps and in parallel, but nothing of that order is left:
//! counts are sums of whole numbers, the alphabet is sorted, and of two pairs that are equally
//! frequent the one with the smaller ids is merged first. A test pins the digest.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::compress::Threads;
use crate::error::{Error, Result};
use crate::load::tokenizer::{AddSpecial, Tokenizer};
use crate::ops::default_threads;

/// Stands before every document; its id is 0.
pub const BEGIN: &str = "<|bos|>";
/// Ends every document and so separates it from the next; its id is 1.
pub const SEPARATOR: &str = "<|eos|>";
/// Number of tokens, where the texts have enough words.
pub const VOCABULARY: usize = 1024;

/// Bytes of text that are enough to count pairs in.
const SAMPLE: usize = 4_000_000;

/// Trains on the first four megabytes of `texts` and gives the bytes of `tokenizer.json`.
/// Its texts begin with [`BEGIN`] where special tokens are asked for.
pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send) -> Result<Vec<u8>> {
    // The trainer counts on as many threads, and would end the process where they cannot be started.
    Threads::started(NonZeroUsize::new(default_threads()).unwrap_or(NonZeroUsize::MIN))?;
    let mut left = SAMPLE;
    let sample = texts.take_while(move |text| {
        let wanted = left > 0;
        left = left.saturating_sub(text.len());
        wanted
    });
    let mut inner = Inner::new(BPE::default());
    let bytes = ByteLevel::new(false, false, true);
    inner.with_pre_tokenizer(Some(Sequence::new(vec![Digits::new(true).into(), bytes.into()])));
    inner.with_decoder(Some(bytes));
    let special = [BEGIN, SEPARATOR].map(|token| AddedToken::from(token, true));
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    inner.train(&mut TrainerWrapper::BpeTrainer(trainer), sample).map_err(untrained)?;
    let begin = TemplateProcessing::builder()
        .try_single(format!("{BEGIN} $A"))
        .map_err(untrained)?
        .special_tokens(vec![(BEGIN, 0)])
        .build()
        .map_err(untrained)?;
    inner.with_post_processor(Some(begin));
    inner.to_string(true).map(String::into_bytes).map_err(untrained)
}

fn untrained(error: impl std::fmt::Display) -> Error {
    Error::bad_data(format!("cannot train the tokenizer: {error}"))
}

/// The bytes of the `tokenizer_config.json` beside it: which tokens begin and end a text.
pub fn config() -> Vec<u8> {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": SEPARATOR,
        "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n").into_bytes()
}

/// One stream of tokens to train on: every text between [`BEGIN`] and [`SEPARATOR`].
pub fn token_stream<'a>(tokenizer: &Tokenizer, texts: impl Iterator<Item = &'a str>) -> Result<Vec<u32>> {
    let separator = tokenizer.id(SEPARATOR).ok_or_else(|| {
        Error::bad_data(format!("the tokenizer has no token {SEPARATOR}"))
            .next("train it with nano::tokenizer")
    })?;
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode(text, AddSpecial::AsTrained)?);
        tokens.push(separator);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::super::corpus::{Corpus, CorpusPlan};
    use super::*;
    use crate::disk::digest::sha256;
    use crate::load::tokenizer::SpecialText;

    fn corpus() -> Corpus {
        Corpus::generate(&CorpusPlan { seed: 11, bytes: 1_000_000, ..CorpusPlan::default() }).unwrap()
    }

    fn opened(json: &[u8]) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config()).unwrap();
        Tokenizer::from_hf_folder(folder.path()).unwrap()
    }

    /// SHA-256 of the tokenizer of the small corpus, in every process.
    const SMALL_DIGEST: &str = "5ea821a782c93e113ef551b076120d7137a6b410f29bfac511e56b13cd387a2c";

    #[test]
    fn the_same_texts_give_the_same_bytes() {
        let corpus = corpus();
        let json = train(corpus.public_texts()).unwrap();
        assert_eq!(json, train(corpus.public_texts()).unwrap());
        assert_eq!(sha256(&json), SMALL_DIGEST);
    }

    #[test]
    fn corpus_text_survives_encoding() {
        let corpus = corpus();
        let tokenizer = opened(&train(corpus.public_texts()).unwrap());
        assert_eq!(tokenizer.vocab_size(), VOCABULARY);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), &[1][..]));
        assert!(tokenizer.adds_bos());
        let texts = || corpus.documents.iter().map(|d| d.text.as_str());
        let tokens = token_stream(&tokenizer, texts()).unwrap();
        let decoded = tokenizer.decode(&tokens, SpecialText::Keep).unwrap();
        let expected: String = texts().flat_map(|text| [BEGIN, text, SEPARATOR]).collect();
        assert!(decoded == expected);
        for text in ["", "caf\u{e9} \u{1f600}\n", "12-34"] {
            let ids = tokenizer.encode(text, AddSpecial::Nothing).unwrap();
            assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), text);
        }
    }

    #[test]
    fn a_digit_is_a_token() {
        let tokenizer = opened(&train(corpus().public_texts()).unwrap());
        let ids = tokenizer.encode("12 + 7 = 19.", AddSpecial::Nothing).unwrap();
        let spelled: Vec<String> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        for digit in ["1", "2", "7", "9"] {
            assert!(spelled.iter().any(|token| token == digit), "{spelled:?}");
        }
        let digits = |token: &String| token.chars().filter(char::is_ascii_digit).count();
        let tokens = (0..VOCABULARY as u32).filter_map(|id| tokenizer.token(id));
        assert!(tokens.filter(|token| digits(token) > 0).all(|token| token.len() == 1));
    }
}
