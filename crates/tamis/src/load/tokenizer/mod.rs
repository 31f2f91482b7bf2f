//! Text to token ids and back, over the `tokenizers` crate. The ids of a model come
//! from `tokenizer.json` or from GGUF metadata ([`gguf`]); nothing here knows a model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;

use super::gguf::Metadata;
use crate::disk::read_small;
use crate::error::{Error, Result};

mod gguf;
mod pretokenizer;
mod special;
mod stream;

pub(crate) use special::spelling;
pub use stream::TextStream;

/// Largest `tokenizer.json` that is read; Gemma's has 33 MB.
const JSON_LIMIT: u64 = 256 << 20;
/// Largest of the small configuration files beside it.
const CONFIG_LIMIT: u64 = 16 << 20;

/// Whether the model's own begin and end tokens are put around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddSpecial {
    /// As the model was trained to see the start of a text.
    AsTrained,
    /// The text alone.
    Nothing,
}

/// What decoding does with special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// Leaves them out.
    Skip,
    /// Writes them as they are spelled.
    Keep,
}

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, and the begin and end ids of
    /// `generation_config.json`, `config.json` and `tokenizer_config.json`.
    pub fn from_hf_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Err(no_tokenizer(folder));
        }
        let inner = parse(&read_small(&path, JSON_LIMIT)?).map_err(|e| e.or_file(&path))?;
        let read = |name: &str| read_json(&folder.join(name));
        let generation = read("generation_config.json")?;
        let config = read("config.json")?;
        let names = read("tokenizer_config.json")?;
        let (bos, eos) = special::from_configs(&inner, &[&generation, &config], &names);
        Ok(Self { inner, bos, eos })
    }

    /// Reads a `tokenizer.json` that has no files beside it, which would say where texts begin and end.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Ok(Self { inner: parse(json)?, bos: None, eos: vec![] })
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let gguf::Parts { json, bos, eos } = gguf::parts(metadata)?;
        Ok(Self { inner: parse(&json)?, bos, eos })
    }

    /// Token ids of a text. Special tokens that the text spells out become their ids.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special == AddSpecial::AsTrained);
        let encoding = encoding.map_err(|e| Error::bad_data(format!("cannot tokenize: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
    /// Text of token ids; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String> {
        let text = self.inner.decode(ids, special == SpecialText::Skip);
        text.map_err(|e| Error::bad_data(format!("cannot decode tokens: {e}")))
    }
    /// A decoder that takes one id at a time and never cuts a character.
    pub fn stream(&self, special: SpecialText) -> TextStream<'_> {
        TextStream::new(self, special)
    }
    /// Begin-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
    /// All tokens that end a text or a turn.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }
    /// Whether [`AddSpecial::AsTrained`] begins with [`Self::bos`].
    pub fn adds_bos(&self) -> bool {
        let first = self.encode("a", AddSpecial::AsTrained).ok().and_then(|ids| ids.first().copied());
        first.is_some() && first == self.bos
    }
    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
    /// Id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
    /// Spelling of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let text = self.inner.to_string(true);
        text.map(String::into_bytes).map_err(|e| Error::bad_data(format!("cannot write the tokenizer: {e}")))
    }
}

/// Parses `tokenizer.json`, without its truncation and padding: texts are cut by us.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer> {
    // The library indexes and unwraps on some malformed files; a file must not end the process.
    let parsed = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)));
    let mut inner = match parsed {
        Ok(Ok(inner)) => inner,
        Ok(Err(e)) => return Err(invalid(&e.to_string())),
        Err(_) => return Err(invalid("its parts contradict each other")),
    };
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| invalid(&e.to_string()))?;
    Ok(inner)
}

fn invalid(problem: &str) -> Error {
    Error::bad_data(format!("the tokenizer is not valid: {problem}"))
        .next("take tokenizer.json from the model's page again")
}

fn no_tokenizer(folder: &Path) -> Error {
    let error = Error::missing("no tokenizer.json").file(folder);
    if folder.join("tokenizer.model").exists() {
        return error.next(
            "convert tokenizer.model: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) \
             in Hugging Face transformers",
        );
    }
    error.next("put the model's tokenizer.json into the folder")
}

/// A JSON file that may be absent (then `null`).
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let bytes = read_small(path, CONFIG_LIMIT)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::bad_data(format!("not valid JSON: {e}")).file(path).line(e.line() as u64))
}

#[cfg(test)]
mod tests;
