//! All that a tokenizer is made of, from `tokenizer.json` or from GGUF metadata, before it is believed. The
//! `tokenizers` crate indexes, unwraps and takes memory by what a file says, while it parses and ever after; so it
//! never sees the file. It is handed, piece by piece, what has been checked here.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokenizers::AddedToken;

use super::parts::{Cost, Decoder, Normalizer, PreTokenizer};
use super::template::PostProcessor;
use super::vocabulary::{Model, TOKEN_BYTES};
use super::{invalid, refused};
use crate::error::Result;

/// Longest of the sections that describe parts, in bytes; models have 10 KB, of which most is a template.
const SECTION: usize = 64 << 10;
/// Most added tokens; Gemma 3 has 6,415.
const ADDED: usize = 1 << 16;

/// What a tokenizer is made of.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) added: Vec<Added>,
    pub(super) normalizer: Option<Normalizer>,
    pub(super) pre_tokenizer: Option<PreTokenizer>,
    pub(super) post_processor: Option<PostProcessor>,
    pub(super) decoder: Option<Decoder>,
    pub(super) model: Model,
}

/// A token that is found before the text is cut, with its number.
#[derive(Debug, Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

impl Added {
    fn token(&self) -> AddedToken {
        AddedToken::from(self.content.as_str(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

/// `tokenizer.json`. Truncation and padding are not read: texts are cut by us.
#[derive(Deserialize)]
struct File<'a> {
    version: Option<String>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    model: &'a RawValue,
}

impl Description {
    /// Reads `tokenizer.json`.
    pub(super) fn from_json(json: &[u8]) -> Result<Self> {
        let file: File = serde_json::from_slice(json).map_err(|e| invalid(&e.to_string()))?;
        if let Some(version) = file.version.filter(|version| version != "1.0") {
            return Err(refused(format!("version {version:?}")));
        }
        Ok(Self {
            added: parse("added_tokens", file.added_tokens)?.unwrap_or_default(),
            normalizer: section("normalizer", file.normalizer)?,
            pre_tokenizer: section("pre_tokenizer", file.pre_tokenizer)?,
            post_processor: section("post_processor", file.post_processor)?,
            decoder: section("decoder", file.decoder)?,
            model: model(file.model)?,
        })
    }

    /// Checks everything and makes the tokenizer.
    pub(super) fn build(self) -> Result<tokenizers::Tokenizer> {
        let way_in = self.normalizer.iter().map(Normalizer::cost);
        Cost::check(way_in.chain(self.pre_tokenizer.iter().map(PreTokenizer::cost)))?;
        Cost::check(self.decoder.iter().map(Decoder::cost))?;
        let crate_says = |e: tokenizers::Error| invalid(&e.to_string());
        let mut inner = tokenizers::Tokenizer::new(self.model.build()?);
        inner
            .with_normalizer(self.normalizer.map(Normalizer::build).transpose()?)
            .map_err(crate_says)?
            .with_pre_tokenizer(self.pre_tokenizer.map(PreTokenizer::build).transpose()?)
            .with_decoder(self.decoder.map(Decoder::build).transpose()?);
        add(&mut inner, &self.added)?;
        if let Some(post_processor) = self.post_processor {
            post_processor.check(|id| inner.id_to_token(id).is_some())?;
            inner.with_post_processor(Some(post_processor.build()?));
        }
        Ok(inner)
    }
}

/// Adds tokens and sees to it that each has the number that the file gives it: the crate counts on by itself.
fn add(inner: &mut tokenizers::Tokenizer, added: &[Added]) -> Result<()> {
    if added.len() > ADDED {
        return Err(refused(format!("{} added tokens; at most {ADDED}", added.len())));
    }
    if added.iter().any(|a| a.content.is_empty() || a.content.len() > TOKEN_BYTES) {
        return Err(refused(format!("an added token without text, or with more than {TOKEN_BYTES} bytes")));
    }
    inner.add_tokens(added.iter().map(Added::token)).map_err(|e| invalid(&e.to_string()))?;
    for Added { id, content, .. } in added {
        if inner.token_to_id(content) != Some(*id) {
            return Err(invalid(&format!(
                "added token {content:?} does not follow the others with number {id}"
            )));
        }
    }
    Ok(())
}

/// Parses a section of the file.
fn parse<T: DeserializeOwned>(name: &str, json: Option<&RawValue>) -> Result<Option<T>> {
    let Some(json) = json else { return Ok(None) };
    serde_json::from_str(json.get()).map(Some).map_err(|e| invalid(&format!("{name}: {e}")))
}

/// Parses a section that is short.
fn section<T: DeserializeOwned>(name: &str, json: Option<&RawValue>) -> Result<Option<T>> {
    match json {
        Some(json) if json.get().len() > SECTION => {
            Err(refused(format!("{name} of {} bytes; at most {SECTION}", json.get().len())))
        }
        json => parse(name, json),
    }
}

/// The model, once it is known to be of the kind that is read. Old files do not say.
fn model(json: &RawValue) -> Result<Model> {
    #[derive(Deserialize)]
    struct Named {
        r#type: Option<String>,
    }
    let named: Option<Named> = parse("model", Some(json))?;
    if let Some(kind) = named.and_then(|n| n.r#type).filter(|kind| kind != "BPE") {
        return Err(refused(format!("model {kind:?}; BPE is read")));
    }
    let model: Option<Model> = parse("model", Some(json))?;
    model.ok_or_else(|| invalid("no model"))
}
