//! Tokenizers that are made to do harm end in an error that names the file, wherever they lie.

use serde_json::{Value, json};

use super::super::*;
use super::sketches::{families, llama};

/// A tokenizer with one section replaced.
fn with(section: &str, value: Value) -> Vec<u8> {
    let mut json = llama();
    *json.pointer_mut(section).unwrap_or_else(|| panic!("{section}")) = value;
    json.to_string().into_bytes()
}

fn refused(json: &[u8]) -> String {
    let error = Tokenizer::from_json(json).expect_err(&String::from_utf8_lossy(json));
    assert_eq!(error.exit_code(), 65, "{error}");
    error.to_string()
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": from}, "content": to})
}

#[test]
fn parts_that_no_family_has_are_refused_by_name() {
    for (section, part, name) in [
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAAAAAAA="}),
            "Precompiled",
        ),
        ("/normalizer", json!({"type": "Bert", "lowercase": true}), "Bert"),
        ("/normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), "Lowercase"),
        ("/normalizer", json!({"strip_left": true, "strip_right": true}), "type"),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "FixedLength"),
        ("/pre_tokenizer", json!({"type": "UnicodeScripts"}), "UnicodeScripts"),
        (
            "/post_processor",
            json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
            "BertProcessing",
        ),
        ("/decoder", json!({"type": "BPEDecoder", "suffix": "x"}), "BPEDecoder"),
        (
            "/decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
            "CTC",
        ),
        ("/model", json!({"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}), "Unigram"),
        ("/model", json!({"type": "WordPiece", "vocab": {}}), "WordPiece"),
        ("/model/dropout", json!(0.5), "dropout"),
        ("/version", json!("2.0"), "2.0"),
    ] {
        let message = refused(&with(section, part));
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn numbers_that_the_crate_would_believe_are_refused() {
    let mut tenfold = vec![replace("a", "aaaaaaaaaa"); 12];
    let strip =
        |start: u64, stop: u64| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let split =
        |p: &str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": true});
    for (section, value) in [
        ("/normalizer", json!({"type": "Sequence", "normalizers": tenfold})),
        ("/decoder", json!({"type": "Sequence", "decoders": tenfold})),
        ("/normalizer", json!({"type": "Prepend", "prepend": "a".repeat(100)})),
        ("/normalizer", json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 4]})),
        ("/normalizer", replace("", &"a".repeat(64))),
        ("/decoder", strip(1 << 60, 0)),
        ("/decoder", strip(0, 1 << 60)),
        ("/decoder", strip(0, 1)),
        ("/pre_tokenizer", split("(a|a)*(?=b)")),
        ("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": vec![split("a"); 40]})),
        ("/model/vocab/a", json!(u32::MAX)),
        ("/model/vocab/a", json!(5)),
        ("/model/merges", json!([["a", "nothing"]])),
        ("/model/merges", json!([["a", "b"]])),
        ("/model/merges", json!([["a", "b", "c"]])),
        ("/model/merges", json!(["a b c"])),
        ("/model/merges", json!(["ab"])),
        ("/model/continuing_subword_prefix", json!("##")),
        ("/model/vocab", json!({})),
        ("/model/vocab", json!({"a".repeat(2000): 0})),
        ("/added_tokens/0/id", json!(7)),
        ("/added_tokens/0/content", json!("")),
        ("/added_tokens/0/content", json!("a".repeat(2000))),
        ("/added_tokens/0/content", json!("not in the vocabulary")),
    ] {
        refused(&with(section, value));
    }
    tenfold.truncate(1);
    Tokenizer::from_json(&with("/normalizer", json!({"type": "Sequence", "normalizers": tenfold}))).unwrap();
}

#[test]
fn templates_that_lack_something_are_refused() {
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    for (section, value) in [
        ("/post_processor/special_tokens", json!({})),
        ("/post_processor/special_tokens/<s>/ids", json!([])),
        ("/post_processor/special_tokens/<s>/ids", json!([1, 1])),
        ("/post_processor/special_tokens/<s>/ids", json!([70_000])),
        ("/post_processor/special_tokens/<s>/id", json!("<t>")),
        ("/post_processor/single", json!([text("B", 0)])),
        ("/post_processor/single", json!([text("A", 0), text("A", 0)])),
        ("/post_processor/single", json!([])),
        ("/post_processor/single", json!([text("A", 1 << 31)])),
        ("/post_processor/pair", json!(vec![text("A", 0); 1000])),
        ("/post_processor/pair", json!([{"SpecialToken": {"id": "<t>", "type_id": 0}}])),
    ] {
        refused(&with(section, value));
    }
    let twice =
        json!({"type": "Sequence", "processors": [llama()["post_processor"], llama()["post_processor"]]});
    refused(&with("/post_processor", twice));
}

#[test]
fn depth_length_and_doubles_are_refused() {
    let nested =
        |n: usize| format!("{}{}", r#"{"type":"Sequence","normalizers":["#.repeat(n), "]}".repeat(n));
    for n in [40, 1000] {
        let json = llama().to_string().replacen(
            r#""normalizer":{"#,
            &format!(r#""normalizer":{},"x":{{"#, nested(n)),
            1,
        );
        refused(json.as_bytes());
    }
    refused(llama().to_string().replacen(r#""model":"#, r#""model":{},"model":"#, 1).as_bytes());
    refused(llama().to_string().replacen(r#""a":"#, r#""a":400,"a":"#, 1).as_bytes());
    refused(&with("/decoder", json!({"type": "Fuse", "x": vec![0; 1 << 16]})));
    for json in ["", "{}", "[]", "null", "{\"model\":null}", "{\"model\":{}}"] {
        refused(json.as_bytes());
    }
}

/// One added token takes the blanks behind it, and another is a blank: the crate cuts where it has cut before.
#[test]
fn a_panic_while_a_text_is_cut_names_the_file() {
    let mut json = llama();
    for (i, content) in ["a", " ", "b"].into_iter().enumerate() {
        json["added_tokens"][i]["content"] = json!(content);
        json["added_tokens"][i]["lstrip"] = json!(content == " ");
        json["added_tokens"][i]["rstrip"] = json!(content == "a");
        json["model"]["vocab"][content] = json!(i);
    }
    for old in ["<unk>", "<s>", "</s>"] {
        json["model"]["vocab"].as_object_mut().unwrap().shift_remove(old);
    }
    json["model"]["vocab"]["▁a"] = json!(900);
    json["model"]["merges"] = json!([]);
    json["post_processor"] = Value::Null;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_hf_folder(folder.path()).unwrap();
    let error = tokenizer.encode("a     b", AddSpecial::Nothing).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    let message = error.to_string();
    assert!(message.contains("tokenizer.json: ") && message.contains("next: "), "{message}");
}

#[test]
fn a_refusal_names_the_file_and_shows_nothing_that_drives_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let bad = with("/decoder", json!({"type": "\u{1b}[2J\n  next: rm"}));
    std::fs::write(folder.path().join("tokenizer.json"), bad).unwrap();
    let message = Tokenizer::from_hf_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: "), "{message}");
    assert!(!message.contains('\u{1b}') && message.lines().count() == 2, "{message}");
}

#[test]
fn a_text_of_many_ends_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), llama().to_string()).unwrap();
    let ends = json!({"eos_token_id": (0..100_000).collect::<Vec<u32>>()});
    std::fs::write(folder.path().join("generation_config.json"), ends.to_string()).unwrap();
    assert_eq!(Tokenizer::from_hf_folder(folder.path()).unwrap_err().exit_code(), 65);
}

/// The engine of the expression would stop cutting without a word.
#[test]
fn a_desert_of_blanks_is_refused() {
    let llama3 = families().swap_remove(3).1;
    let tokenizer = Tokenizer::from_json(llama3.to_string().as_bytes()).unwrap();
    let text = |blanks: usize| format!("a{}b c", " ".repeat(blanks));
    let ids = tokenizer.encode(&text(BLANKS), AddSpecial::Nothing).unwrap();
    assert_eq!(ids[ids.len() - 4..], tokenizer.encode("  b c", AddSpecial::Nothing).unwrap()[1..]);
    assert_eq!(tokenizer.encode(&text(BLANKS + 1), AddSpecial::Nothing).unwrap_err().exit_code(), 2);
}

/// Ids are at most as many as the bytes that a text may become, and what begins and ends it.
#[test]
fn ids_are_bounded_by_the_text() {
    let text = " é\u{1f642}ﷺ<s> a\u{0344}".repeat(50);
    for (name, json) in families() {
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
        let ids = tokenizer.encode(&text, AddSpecial::AsTrained).unwrap();
        assert!(ids.len() <= 4 * text.len() + 1, "{name}: {}", ids.len());
    }
}

/// A token that never ends a character, and one without text, are not held back for ever.
#[test]
fn a_stream_does_not_hold_back_more_than_it_needs() {
    let tokenizer = Tokenizer::from_json(llama().to_string().as_bytes()).unwrap();
    let half = tokenizer.id("<0xE2>").unwrap();
    for id in [half, tokenizer.id("<s>").unwrap()] {
        let mut stream = tokenizer.stream(SpecialText::Skip);
        let text: String = (0..1000).map(|_| stream.push(id).unwrap()).collect();
        assert!(stream.held() < 40, "{}", stream.held());
        assert!(id != half || text.chars().count() > 900);
    }
}
