//! The small files of a model as an artifact carries them on: configuration, tokenizer,
//! generation defaults, chat template. A Hugging Face folder's are copied byte for byte
//! (the tokenizer too); for a GGUF file they are written anew from its metadata.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Checkpoint;
use super::open::TextSide;
use super::tokenizer::read_json;
use crate::disk::read_small;
use crate::error::{Error, Result};
use crate::model::hf_config::to_hf;

/// Files of the text side that are carried on where they exist.
const COPIED: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// Longest of them that is read: the largest tokenizers have about 35 MB.
const LIMIT: u64 = 256 << 20;

impl Checkpoint {
    /// The `config.json` of this model.
    pub fn hf_config(&self) -> Result<Map<String, Value>> {
        match &self.text {
            TextSide::Folder(folder) => {
                let path = folder.join("config.json");
                let Value::Object(map) = read_json(&path)? else {
                    return Err(Error::bad_data("not a JSON object").file(path));
                };
                Ok(map)
            }
            TextSide::Gguf(_) => to_hf(&self.config).map_err(|e| e.or_file(&self.path)),
        }
    }

    /// Errors that whoever writes this model again would meet at the end of the work.
    pub fn check_carried(&self) -> Result<()> {
        self.hf_config()?;
        self.text_files().map(drop)
    }

    /// Tokenizer, its configuration, generation defaults and chat template, by file name.
    pub fn text_files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        match &self.text {
            TextSide::Folder(folder) => copied(folder),
            TextSide::Gguf(_) => self.written(),
        }
    }

    fn written(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let tokenizer = self.tokenizer()?;
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let template = self.chat_template()?.map(|t| t.source().to_owned());
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(tokenizer.bos()),
            "eos_token": token(tokenizer.eos().first().copied()),
            "add_bos_token": tokenizer.adds_bos(),
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.config.context,
        });
        let generation = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos() });
        let mut files = BTreeMap::from([
            ("tokenizer.json".to_owned(), tokenizer.to_json()?),
            ("tokenizer_config.json".to_owned(), pretty(&config)),
            ("generation_config.json".to_owned(), pretty(&generation)),
        ]);
        files.extend(template.map(|t| ("chat_template.jinja".to_owned(), t.into_bytes())));
        Ok(files)
    }
}

fn copied(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for name in COPIED {
        let path = folder.join(name);
        if path.exists() {
            files.insert(name.to_owned(), read_small(&path, LIMIT)?);
        }
    }
    Ok(files)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
