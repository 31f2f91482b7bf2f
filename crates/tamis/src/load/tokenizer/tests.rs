//! Conformance: llama.cpp's vectors for its four vocabularies, and SmolLM2's own
//! `tokenizer.json`. The data is not in the repository; see `testdata`.

use std::path::PathBuf;

use super::*;
use crate::load::gguf::GgufFile;
use crate::load::testdata;

mod hostile;
mod sketches;

fn vocabulary(name: &str) -> Option<(Tokenizer, PathBuf)> {
    let path = testdata::data(&format!("tokenizers/ggml-vocab/ggml-vocab-{name}.gguf"))?;
    let file = GgufFile::open(&path).unwrap();
    Some((Tokenizer::from_gguf(&file.header().metadata).unwrap(), path))
}

/// Inputs are separated by a marker line; each has one line of expected ids.
fn vectors(path: &Path) -> Vec<(String, Vec<u32>)> {
    let beside = |end: &str| std::fs::read_to_string(format!("{}{end}", path.display())).unwrap();
    let inputs = beside(".inp");
    let ids = |line: &str| line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let inputs = inputs.split("\n__ggml_vocab_test__\n").map(str::to_string);
    let outputs: Vec<Vec<u32>> = beside(".out").lines().map(ids).collect();
    let vectors: Vec<_> = inputs.zip(outputs.iter().cloned()).collect();
    assert_eq!(vectors.len(), outputs.len());
    vectors
}

fn conforms(name: &str) {
    let Some((tokenizer, path)) = vocabulary(name) else { return };
    let vectors = vectors(&path);
    assert!(vectors.len() > 40);
    let mut wrong = Vec::new();
    for (text, want) in &vectors {
        let got = tokenizer.encode(text, AddSpecial::Nothing).unwrap();
        if got != *want {
            wrong.push(format!("{text:?}\n  got  {got:?}\n  want {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {} differ\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

#[test]
fn gpt2_vocabulary_conforms() {
    conforms("gpt-2");
}

#[test]
fn llama_bpe_vocabulary_conforms() {
    conforms("llama-bpe");
}

#[test]
fn qwen2_vocabulary_conforms() {
    conforms("qwen2");
}

#[test]
fn llama_spm_vocabulary_conforms() {
    conforms("llama-spm");
}

#[test]
fn smollm2_gguf_encodes_as_its_tokenizer_json() {
    let (Some(model), Some(json), Some(text)) = (
        testdata::smollm2(),
        testdata::data("tokenizers/smollm2/tokenizer.json"),
        testdata::data("wikitext2/wiki.test.raw"),
    ) else {
        return;
    };
    let gguf = Tokenizer::from_gguf(&GgufFile::open(&model).unwrap().header().metadata).unwrap();
    let hf = Tokenizer::from_hf_folder(json.parent().unwrap()).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let ids = gguf.encode(&text, AddSpecial::AsTrained).unwrap();
    assert_eq!(ids.len(), 303_415);
    assert!(ids == hf.encode(&text, AddSpecial::AsTrained).unwrap());
    assert_eq!(gguf.decode(&ids, SpecialText::Keep).unwrap(), text);
    let mut stream = gguf.stream(SpecialText::Keep);
    let mut streamed: String = ids[..5000].iter().map(|&id| stream.push(id).unwrap()).collect();
    streamed += &stream.finish().unwrap();
    assert!(text.starts_with(&streamed));
    let chat = "<|im_start|>user\nHi 123<|im_end|>\n";
    assert_eq!(gguf.encode(chat, AddSpecial::AsTrained).unwrap()[0], 1);
    assert_eq!((gguf.bos(), gguf.adds_bos(), gguf.vocab_size()), (Some(1), false, 49_152));
    assert_eq!(gguf.eos(), [2, 0]);
    let again = Tokenizer::from_json(&gguf.to_json().unwrap()).unwrap();
    assert_eq!(
        again.encode(chat, AddSpecial::AsTrained).unwrap(),
        gguf.encode(chat, AddSpecial::AsTrained).unwrap()
    );
}

#[test]
fn stories_tokenizer_streams_its_own_text() {
    let Some(path) = testdata::data("models/stories260K/tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_hf_folder(path.parent().unwrap()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), &[2][..], true));
    for text in ["Once upon a time", "日本 🙂 naïve\n\tx", " leading and  double"] {
        let ids = tokenizer.encode(text, AddSpecial::AsTrained).unwrap();
        let whole = tokenizer.decode(&ids, SpecialText::Skip).unwrap();
        assert_eq!(whole, text);
        let mut stream = tokenizer.stream(SpecialText::Skip);
        let mut parts: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        parts += &stream.finish().unwrap();
        assert_eq!(parts, text);
    }
}

/// What the crate makes of a file by itself. It writes both down in the same way where they are the same.
fn agrees_with_the_crate(json: &[u8], texts: &[&str]) {
    let (ours, theirs) =
        (Tokenizer::from_json(json).unwrap(), tokenizers::Tokenizer::from_bytes(json).unwrap());
    assert!(ours.to_json().unwrap() == theirs.to_string(true).unwrap().into_bytes());
    for (text, special) in texts.iter().flat_map(|t| [(t, AddSpecial::Nothing), (t, AddSpecial::AsTrained)]) {
        let ids = ours.encode(text, special).unwrap();
        let want = theirs.encode(*text, special == AddSpecial::AsTrained).unwrap();
        assert_eq!(ids, want.get_ids(), "{text:?}");
        assert_eq!(ours.decode(&ids, SpecialText::Keep).unwrap(), theirs.decode(&ids, false).unwrap());
    }
}

const TEXTS: [&str; 4] = [
    "",
    "Once upon  a time,\n\tthere were 12.5 cafe\u{301}s",
    "<s>[INST] 日本 🙂 [/INST]",
    " \u{feff}x\r\n ",
];

#[test]
fn files_of_models_are_read_as_the_crate_reads_them() {
    agrees_with_the_crate(include_bytes!("../../../../tamis-cli/assets/nano-model/tokenizer.json"), &TEXTS);
    for file in ["tokenizers/smollm2/tokenizer.json", "models/stories260K/tokenizer.json"] {
        let Some(path) = testdata::data(file) else { continue };
        agrees_with_the_crate(&std::fs::read(path).unwrap(), &TEXTS);
    }
}

#[test]
fn parts_of_every_family_are_read_as_the_crate_reads_them() {
    for (name, json) in sketches::families() {
        std::panic::catch_unwind(|| agrees_with_the_crate(json.to_string().as_bytes(), &TEXTS))
            .unwrap_or_else(|_| panic!("{name}"));
    }
}
