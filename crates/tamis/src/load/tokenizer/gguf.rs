//! The tokenizer that GGUF metadata describes.
//!
//! `gpt2` is byte-level BPE with a merge list. `llama` is SentencePiece's BPE: it has
//! no merge list but a score for each piece, and joins the neighbours whose joint
//! piece scores highest. Listing every split of every piece by falling score gives the
//! same joins (Kudo 2018, arXiv 1808.06226; not the Unigram model of that library).

use std::collections::{BTreeMap, HashMap};

use tokenizers::processors::template::{Piece, Sequence};

use super::description::{Added, Description};
use super::parts::{ByteLevel, Decoder, Normalizer};
use super::pattern::Pattern;
use super::pretokenizer;
use super::template::{Around, PostProcessor, Special};
use super::vocabulary::Model;
use super::{invalid, refused};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// What a tokenizer is made of.
pub(super) struct Parts {
    pub(super) description: Description,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
}

// Values of `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Control tokens that end a turn; many files name only one end token.
const TURN_ENDS: &[&str] =
    &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>"];

/// Longest SentencePiece token in bytes. Each is split at every place, which costs the
/// square of its length; real ones stay below 150.
const PIECE_LIMIT: usize = 256;

/// The checked vocabulary.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    kinds: Option<&'a [i64]>,
    ids: HashMap<&'a str, u32>,
}

pub(super) fn parts(metadata: &Metadata) -> Result<Parts> {
    let model = metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let vocabulary = Vocabulary::new(metadata)?;
    let description = match model {
        "gpt2" => vocabulary.byte_level_bpe()?,
        "llama" => vocabulary.sentence_piece_bpe()?,
        other => {
            return Err(refused(format!(
                "model {other:?}; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are read"
            )));
        }
    };
    Ok(Parts { description, bos: vocabulary.id("tokenizer.ggml.bos_token_id")?, eos: vocabulary.ends()? })
}

fn missing(key: &str) -> Error {
    Error::missing(format!("the GGUF file has no {key}"))
        .next("use a GGUF file with a tokenizer, or the model's Hugging Face folder")
}

impl<'a> Vocabulary<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.texts(key)?.filter(|t| !t.is_empty()).ok_or_else(|| missing(key))?;
        let kinds = metadata.ints("tokenizer.ggml.token_type")?;
        if kinds.is_some_and(|k| k.len() != tokens.len()) {
            return Err(Error::bad_data("the GGUF file has not one token type for each token"));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if ids.insert(token.as_str(), id as u32).is_some() {
                return Err(invalid(&format!("token {token:?} is in the vocabulary twice")));
            }
        }
        Ok(Self { metadata, tokens, kinds, ids })
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.map_or(1, |k| k[id])
    }

    /// A token id of the metadata, inside the vocabulary.
    fn id(&self, key: &str) -> Result<Option<u32>> {
        match self.metadata.usize(key)? {
            Some(id) if id >= self.tokens.len() => {
                Err(Error::bad_data(format!("{key} is {id}, past the {} tokens", self.tokens.len())))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    fn ends(&self) -> Result<Vec<u32>> {
        let mut ends = Vec::new();
        for key in ["eos", "eot", "eom"] {
            ends.extend(self.id(&format!("tokenizer.ggml.{key}_token_id"))?);
        }
        let named = TURN_ENDS.iter().filter_map(|token| self.ids.get(token).copied());
        for id in named.filter(|&id| self.kind(id as usize) == CONTROL) {
            ends.push(id);
        }
        let mut seen = Vec::new();
        ends.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        Ok(ends)
    }

    fn byte_level_bpe(&self) -> Result<Description> {
        let pre = self.metadata.text("tokenizer.ggml.pre")?.ok_or_else(|| missing("tokenizer.ggml.pre"))?;
        let pre = pretokenizer::by_name(pre)?;
        let key = "tokenizer.ggml.merges";
        let mut merges = Vec::new();
        for merge in self.metadata.texts(key)?.ok_or_else(|| missing(key))? {
            let pair = merge.split_once(' ');
            let (left, right) = pair.ok_or_else(|| invalid(&format!("merge {merge:?} is not a pair")))?;
            merges.push((left.to_owned(), right.to_owned()));
        }
        Ok(Description {
            added: self.added_tokens(),
            normalizer: pre.normalizer,
            pre_tokenizer: Some(pre.part),
            post_processor: self.around(pre.adds_bos)?,
            decoder: Some(Decoder::ByteLevel(ByteLevel::of_gguf(true))),
            model: Model {
                ignore_merges: Some(pre.ignore_merges),
                vocab: self.vocab(),
                merges,
                ..Model::default()
            },
        })
    }

    fn sentence_piece_bpe(&self) -> Result<Description> {
        let replace = |from: &str, to: &str| (Pattern::String(from.into()), to.to_owned());
        let (space, underscore) = (replace("▁", " "), replace(" ", "▁"));
        let mut normalizers = vec![Normalizer::Replace { pattern: underscore.0, content: underscore.1 }];
        let mut decoders = vec![
            Decoder::Replace { pattern: space.0, content: space.1 },
            Decoder::ByteFallback,
            Decoder::Fuse,
        ];
        if self.metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
            normalizers.insert(0, Normalizer::Prepend { prepend: "▁".into() });
            decoders.push(Decoder::Strip { content: ' ', start: 1, stop: 0 });
        }
        let unknown = self.id("tokenizer.ggml.unknown_token_id")?;
        Ok(Description {
            added: self.added_tokens(),
            normalizer: Some(Normalizer::Sequence { normalizers }),
            pre_tokenizer: None,
            post_processor: self.around(true)?,
            decoder: Some(Decoder::Sequence { decoders }),
            model: Model {
                unk_token: unknown.map(|id| self.tokens[id as usize].clone()),
                fuse_unk: Some(true),
                byte_fallback: Some(true),
                vocab: self.vocab(),
                merges: self.merges_by_score()?,
                ..Model::default()
            },
        })
    }

    fn vocab(&self) -> Vec<(String, u32)> {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    fn added_tokens(&self) -> Vec<Added> {
        let added = |(id, token): (usize, &String)| {
            let kind = self.kind(id);
            matches!(kind, UNKNOWN | CONTROL | USER_DEFINED).then(|| Added {
                id: id as u32,
                content: token.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: kind != USER_DEFINED,
            })
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    /// The post-processor that puts BOS and EOS around a text.
    fn around(&self, default_bos: bool) -> Result<Option<PostProcessor>> {
        let flag = |key: &str, default| Ok(self.metadata.bool(key)?.unwrap_or(default));
        let wanted = [
            (flag("tokenizer.ggml.add_bos_token", default_bos)?, "tokenizer.ggml.bos_token_id"),
            (flag("tokenizer.ggml.add_eos_token", false)?, "tokenizer.ggml.eos_token_id"),
        ];
        let mut single = vec![Piece::Sequence { id: Sequence::A, type_id: 0 }];
        let mut special_tokens = BTreeMap::new();
        for (i, (wanted, key)) in wanted.into_iter().enumerate() {
            let Some(id) = self.id(key)?.filter(|_| wanted) else { continue };
            let token = &self.tokens[id as usize];
            let piece = Piece::SpecialToken { id: token.clone(), type_id: 0 };
            single.insert(if i == 0 { 0 } else { single.len() }, piece);
            let special = Special { id: token.clone(), ids: vec![id], tokens: vec![token.clone()] };
            special_tokens.insert(token.clone(), special);
        }
        if special_tokens.is_empty() {
            return Ok(None);
        }
        let mut pair = single.clone();
        pair.push(Piece::Sequence { id: Sequence::B, type_id: 1 });
        Ok(Some(PostProcessor::TemplateProcessing(Around { single, pair, special_tokens })))
    }

    /// Every split of every piece into two pieces, best score first.
    fn merges_by_score(&self) -> Result<Vec<(String, String)>> {
        let key = "tokenizer.ggml.scores";
        let scores = self.metadata.floats(key)?.ok_or_else(|| missing(key))?;
        if scores.len() != self.tokens.len() || scores.iter().any(|s| !s.is_finite()) {
            return Err(Error::bad_data("the GGUF file has not one finite score for each token"));
        }
        if let Some(token) = self.tokens.iter().find(|t| t.len() > PIECE_LIMIT) {
            return Err(Error::bad_data(format!("a token of {} bytes; at most {PIECE_LIMIT}", token.len())));
        }
        let mut merges = Vec::new();
        for (token, &score) in self.tokens.iter().zip(scores) {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&l), Some(&r)) = (self.ids.get(left), self.ids.get(right)) {
                    merges.push((score, l, r, (left, right)));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(merges.into_iter().map(|(.., (left, right))| (left.to_owned(), right.to_owned())).collect())
    }
}
