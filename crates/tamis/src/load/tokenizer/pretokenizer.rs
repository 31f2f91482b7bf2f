//! The pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`. Byte-level BPE only.
//!
//! The patterns are those of the models' own `tokenizer.json` files.

use tokenizers::SplitDelimiterBehavior;

use super::parts::{ByteLevel, Normalizer, PreTokenizer};
use super::pattern::Pattern;
use crate::error::{Error, Result, one_line};

/// How a byte-level BPE cuts text before it merges.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) part: PreTokenizer,
    pub(super) normalizer: Option<Normalizer>,
    /// Whether a whole piece that is a token is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether the model begins texts with BOS where the file does not say.
    pub(super) adds_bos: bool,
}

/// Names that are understood, for the refusal.
const SUPPORTED: &str = "gpt-2, smollm, starcoder, refact, command-r, llama-bpe, qwen2";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizer of a `tokenizer.ggml.pre` name.
pub(super) fn by_name(name: &str) -> Result<Cut> {
    let plain = |part| Cut { part, normalizer: None, ignore_merges: false, adds_bos: false };
    let bytes = |use_regex| PreTokenizer::ByteLevel(ByteLevel::of_gguf(use_regex));
    let sequence = |first| PreTokenizer::Sequence { pretokenizers: first };
    match name {
        "gpt-2" | "gpt2" => Ok(plain(bytes(true))),
        "smollm" | "starcoder" | "refact" | "command-r" => {
            Ok(plain(sequence(vec![PreTokenizer::Digits { individual_digits: true }, bytes(true)])))
        }
        "llama-bpe" | "llama3" | "llama-v3" => Ok(Cut {
            ignore_merges: true,
            adds_bos: true,
            ..plain(sequence(vec![split(LLAMA3), bytes(false)]))
        }),
        "qwen2" | "deepseek-r1-qwen" => {
            Ok(Cut { normalizer: Some(Normalizer::Nfc), ..plain(sequence(vec![split(QWEN2), bytes(false)])) })
        }
        other => Err(Error::bad_data(format!("pre-tokenizer {:?} is not supported", one_line(other)))
            .next(format!("use the model's Hugging Face folder, or a GGUF with one of: {SUPPORTED}"))),
    }
}

fn split(pattern: &str) -> PreTokenizer {
    PreTokenizer::Split {
        pattern: Pattern::Regex(pattern.into()),
        behavior: SplitDelimiterBehavior::Isolated,
        invert: false,
    }
}
