//! Replays the seed corpora of `fuzz/`: files named `ok_` are read, `bad_` ones refused as
//! bad data, and nothing panics. What a fuzzer finds is added under a plain name.

use std::path::Path;

use tamis::artifact::Manifest;
use tamis::load::chat::Role;
use tamis::load::gguf::Header;
use tamis::load::{ChatTemplate, GenerationPrompt, Message, folder, safetensors};
use tamis::model::Config;
use tamis::recipe::{Format, Recipe};
use tamis::{Error, Kind, Result};

fn replay(target: &str, entry: impl Fn(&[u8]) -> Result<()>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let outcome = entry(&std::fs::read(&path).unwrap());
        match name.split('_').next() {
            Some("ok") => outcome.unwrap_or_else(|e| panic!("{name}: {e}")),
            Some("bad") => assert_eq!(outcome.expect_err(&name).exit_code(), 65, "{name}"),
            _ => {}
        }
        seen += 1;
    }
    assert!(seen > 5, "{target}: {seen} files");
}

#[test]
fn safetensors_headers() {
    replay("safetensors", |bytes| safetensors::parse_file(bytes).map(drop));
}

#[test]
fn shard_indices() {
    replay("index", |bytes| folder::parse_index(bytes).map(drop));
}

#[test]
fn gguf_headers() {
    replay("gguf", |bytes| {
        let header = Header::read(bytes, bytes.len() as u64)?;
        Config::from_gguf(&header.metadata).map(drop)
    });
}

#[test]
fn chat_templates() {
    replay("chat", |bytes| {
        let source = String::from_utf8(bytes.to_vec()).map_err(|e| Error::bad_data(e.to_string()))?;
        let template = ChatTemplate::new(source, "<s>".into(), "</s>".into())?.at(0);
        let message = |role: Role| Message { role, content: "abc".into() };
        template.render(&[message(Role::User), message(Role::Assistant)], GenerationPrompt::Open).map(drop)
    });
}

#[test]
fn manifests() {
    replay("artifact", |bytes| Manifest::parse(bytes).map(drop));
}

#[test]
fn recipes() {
    replay("recipe", |bytes| {
        let text = String::from_utf8(bytes.to_vec()).map_err(|e| Error::bad_data(e.to_string()))?;
        let format = Format::of(Path::new("recipe"), &text);
        // A wrong recipe has an exit code of its own.
        let wrong = |e: Error| if e.kind() == Kind::Recipe { Error::bad_data(e.to_string()) } else { e };
        let recipe = Recipe::parse(&text, format, Path::new("recipe")).map_err(wrong)?;
        recipe
            .resolve(&["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"])
            .map(drop)
            .map_err(wrong)
    });
}
