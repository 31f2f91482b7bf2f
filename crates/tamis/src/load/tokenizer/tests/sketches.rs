//! Small tokenizers with the parts that the families have, as their `tokenizer.json` names them.

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One of each.
pub(super) fn families() -> Vec<(&'static str, Value)> {
    let underscore = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let gemma_split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let nfc = json!({"type": "NFC"});
    let opt = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    vec![
        ("llama", pieces(json!({"type": "Sequence", "normalizers": [prepend, underscore]}), Value::Null)),
        ("mistral", pieces(Value::Null, metaspace)),
        ("gemma", pieces(underscore, gemma_split)),
        ("llama 3", bytes(Value::Null, split(LLAMA3))),
        ("mistral nemo", bytes(Value::Null, split(TEKKEN))),
        ("qwen", bytes(nfc, split(&LLAMA3.replace("{1,3}", "")))),
        ("opt", bytes(Value::Null, opt)),
        (
            "smollm2",
            bytes(
                Value::Null,
                json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Digits", "individual_digits": true}, visible_bytes(true),
                ]}),
            ),
        ),
    ]
}

/// The first of them, to be spoilt.
pub(super) fn llama() -> Value {
    families().swap_remove(0).1
}

fn visible_bytes(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    let cut =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [cut, visible_bytes(false)]})
}

/// SentencePiece's way: pieces, and bytes for what has none.
fn pieces(normalizer: Value, pre_tokenizer: Value) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend("▁abcdefghijklmnopqrstuvwxyz.,".chars().map(String::from));
    tokens.extend(["▁a", "ti", "me"].map(String::from));
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocab(&tokens), "merges": [["▁", "a"], ["t", "i"], ["m", "e"]],
    });
    whole(
        &["<unk>", "<s>", "</s>"],
        "<s>",
        json!([normalizer, pre_tokenizer, template("<s>", 1), decoder, model]),
    )
}

/// The way of GPT-2: bytes as characters, merged. The added tokens follow the vocabulary; merges are lines.
fn bytes(normalizer: Value, pre_tokenizer: Value) -> Value {
    let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let begin = alphabet.len() + 3;
    alphabet.extend(["Ġt", "he", "re"].map(String::from));
    let around = template("<|begin|>", begin);
    let processors = json!({"type": "Sequence", "processors": [visible_bytes(false), around]});
    let model = json!({
        "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": false, "vocab": vocab(&alphabet), "merges": ["#version: 0.2", "Ġ t", "h e", "r e"],
    });
    let parts = json!([normalizer, pre_tokenizer, processors, visible_bytes(true), model]);
    let mut json = whole(&["<|begin|>", "[INST]"], "<|begin|>", parts);
    for (i, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = json!(begin + i);
    }
    json
}

fn vocab(tokens: &[String]) -> Map<String, Value> {
    tokens.iter().cloned().zip((0..).map(|id: u32| json!(id))).collect()
}

fn template(token: &str, id: usize) -> Value {
    let (begin, text) = (
        json!({"SpecialToken": {"id": token, "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
    );
    json!({
        "type": "TemplateProcessing", "single": [begin, text],
        "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

fn whole(added: &[&str], special: &str, parts: Value) -> Value {
    let entry = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *content == special,
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.iter().enumerate().map(entry).collect::<Vec<_>>(),
        "normalizer": parts[0], "pre_tokenizer": parts[1], "post_processor": parts[2], "decoder": parts[3],
        "model": parts[4],
    })
}
