//! Text to token ids and back, over the `tokenizers` crate. The ids of a model come
//! from `tokenizer.json` or from GGUF metadata ([`gguf`]); nothing here knows a model.
//! Both are read into a [`Description`], which is checked, and what the crate then does
//! is guarded.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::gguf::Metadata;
use crate::disk::read_small;
use crate::error::{Error, Result, one_line};
use crate::guard::{Panicked, guarded};

mod description;
mod gguf;
mod parts;
mod pattern;
mod pretokenizer;
mod special;
mod stream;
mod template;
mod vocabulary;

pub(crate) use special::spelling;
pub use stream::TextStream;

use description::Description;

/// Largest `tokenizer.json` that is read; Gemma's has 33 MB.
const JSON_LIMIT: u64 = 64 << 20;
/// Largest of the small configuration files beside it; Gemma's has 1.2 MB.
const CONFIG_LIMIT: u64 = 4 << 20;

/// Most blanks in a row. The expressions that cut texts keep a place for each and stop cutting, without a word, at a
/// million.
const BLANKS: usize = 1 << 19;

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
    /// The file that it came from.
    origin: Option<PathBuf>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, and the begin and end ids of
    /// `generation_config.json`, `config.json` and `tokenizer_config.json`.
    pub fn from_hf_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Err(no_tokenizer(folder));
        }
        let read = Self::from_json(&read_small(&path, JSON_LIMIT)?);
        let mut tokenizer = read.map_err(|e| e.or_file(&path))?.of_file(&path);
        let read = |name: &str| read_json(&folder.join(name));
        let generation = read("generation_config.json")?;
        let config = read("config.json")?;
        let names = read("tokenizer_config.json")?;
        let ends = special::from_configs(&tokenizer.inner, &[&generation, &config], &names);
        (tokenizer.bos, tokenizer.eos) = ends.map_err(|e| e.file(folder))?;
        Ok(tokenizer)
    }

    /// Reads the bytes of a `tokenizer.json`. It does not say which tokens begin and end a text.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::build(Description::from_json(json)?, None, Vec::new())
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let gguf::Parts { description, bos, eos } = gguf::parts(metadata)?;
        Self::build(description, bos, eos)
    }

    fn build(description: Description, bos: Option<u32>, eos: Vec<u32>) -> Result<Self> {
        let inner = guarded(|| description.build()).unwrap_or_else(|Panicked| Err(contradictory()))?;
        Ok(Self { inner, bos, eos, origin: None })
    }

    /// The same, with the file that its failures name.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        Self { origin: Some(path.to_path_buf()), ..self }
    }

    /// Token ids of a text. Special tokens that the text spells out become their ids. Errors: half a million blanks
    /// in a row.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>> {
        let longest = text.split(|c: char| !c.is_whitespace()).map(str::len).max();
        if longest.is_some_and(|blanks| blanks > BLANKS) {
            return Err(Error::usage(format!("a text with more than {BLANKS} blanks in a row"))
                .next("take them out of the text"));
        }
        self.guarded(|| {
            let encoding = self.inner.encode_fast(text, special == AddSpecial::AsTrained)?;
            Ok(encoding.get_ids().to_vec())
        })
    }
    /// Text of token ids; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String> {
        self.guarded(|| self.inner.decode(ids, special == SpecialText::Skip))
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
        self.guarded(|| self.inner.to_string(true)).map(String::into_bytes)
    }

    /// What the crate gives; its failures and its panics are bad data of this file.
    fn guarded<T>(&self, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        let error = match guarded(work) {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => invalid(&error.to_string()),
            Err(Panicked) => contradictory(),
        };
        Err(match &self.origin {
            Some(path) => error.file(path),
            None => error,
        })
    }
}

fn invalid(problem: &str) -> Error {
    Error::bad_data(format!("the tokenizer is not valid: {}", one_line(problem)))
        .next("take the tokenizer from the model's page again")
}

/// What the crate panics on.
fn contradictory() -> Error {
    invalid("its parts contradict each other")
}

/// What is no damage, but nothing that a supported model has.
fn refused(what: String) -> Error {
    Error::bad_data(format!("the tokenizer has what no supported family has: {}", one_line(&what)))
        .next("use a model of a supported family with the tokenizer that it was published with")
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
