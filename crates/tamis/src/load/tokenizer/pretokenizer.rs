//! The pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`, as the JSON that
//! the `tokenizers` crate reads. Byte-level BPE only.
//!
//! The patterns are those of the models' own `tokenizer.json` files.

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// How a byte-level BPE cuts text before it merges.
#[derive(Debug, Clone)]
pub(super) struct PreTokenizer {
    pub(super) json: Value,
    pub(super) normalizer: Value,
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
pub(super) fn by_name(name: &str) -> Result<PreTokenizer> {
    let plain = |json| PreTokenizer { json, normalizer: Value::Null, ignore_merges: false, adds_bos: false };
    match name {
        "gpt-2" | "gpt2" => Ok(plain(byte_level(true))),
        "smollm" | "starcoder" | "refact" | "command-r" => Ok(plain(sequence(
            json!({
                "type": "Digits", "individual_digits": true
            }),
            byte_level(true),
        ))),
        "llama-bpe" | "llama3" | "llama-v3" => Ok(PreTokenizer {
            ignore_merges: true,
            adds_bos: true,
            ..plain(sequence(split(LLAMA3), byte_level(false)))
        }),
        "qwen2" | "deepseek-r1-qwen" => Ok(PreTokenizer {
            normalizer: json!({"type": "NFC"}),
            ..plain(sequence(split(QWEN2), byte_level(false)))
        }),
        other => Err(Error::bad_data(format!("pre-tokenizer {other:?} is not supported"))
            .next(format!("use the model's Hugging Face folder, or a GGUF with one of: {SUPPORTED}"))),
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn sequence(first: Value, second: Value) -> Value {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}
