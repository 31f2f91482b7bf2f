//! What is put around a text when it has been cut into tokens: the tokens that begin and end it.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::processors::template::{Piece, Sequence, SpecialToken, Template, TemplateProcessing};
use tokenizers::processors::{self, PostProcessorWrapper};

use super::parts::ByteLevel;
use super::{invalid, refused};
use crate::error::Result;

/// Most pieces of a template, tokens of a piece, and steps in a row; models have three.
const PIECES: usize = 16;
/// Highest number for the kind of text that a piece belongs to; models have two kinds.
const KIND: u32 = 15;

/// What happens after a text has been cut.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor {
    Sequence { processors: Vec<PostProcessor> },
    ByteLevel(ByteLevel),
    TemplateProcessing(Around),
}

/// The template for one text, that for two (which nothing here uses), and the tokens that they name.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Around {
    pub(super) single: Vec<Piece>,
    pub(super) pair: Vec<Piece>,
    pub(super) special_tokens: BTreeMap<String, Special>,
}

/// A name in a template, and the tokens that it stands for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Special {
    pub(super) id: String,
    pub(super) ids: Vec<u32>,
    pub(super) tokens: Vec<String>,
}

/// A piece on its way into a template.
struct Checked(Piece);

impl TryFrom<Checked> for Piece {
    type Error = String;

    fn try_from(piece: Checked) -> Result<Self, String> {
        Ok(piece.0)
    }
}

impl PostProcessor {
    /// All templates in here; refuses more steps than may be.
    pub(super) fn templates(&self) -> Result<Vec<&Around>> {
        let mut templates = Vec::new();
        let (mut left, mut steps) = (vec![self], 0);
        while let Some(step) = left.pop() {
            steps += 1;
            match step {
                Self::Sequence { processors } => left.extend(processors),
                Self::ByteLevel(_) => {}
                Self::TemplateProcessing(around) => templates.push(around),
            }
        }
        if steps > PIECES {
            return Err(refused(format!("more than {PIECES} steps after cutting")));
        }
        Ok(templates)
    }

    /// Refuses templates that leave the text out or double it, and names without tokens. `exists` knows all tokens.
    pub(super) fn check(&self, exists: impl Fn(u32) -> bool) -> Result<()> {
        let templates = self.templates()?;
        if templates.len() > 1 {
            return Err(refused("more than one template around a text".into()));
        }
        templates.iter().try_for_each(|around| around.check(&exists))
    }

    pub(super) fn build(self) -> Result<PostProcessorWrapper> {
        Ok(match self {
            Self::Sequence { processors } => {
                let parts: Result<_> = processors.into_iter().map(Self::build).collect();
                processors::sequence::Sequence::new(parts?).into()
            }
            Self::ByteLevel(part) => part.build().into(),
            Self::TemplateProcessing(around) => around.build()?.into(),
        })
    }
}

impl Around {
    fn check(&self, exists: &impl Fn(u32) -> bool) -> Result<()> {
        let texts = |pieces: &[Piece], which: Sequence| {
            pieces.iter().filter(|p| matches!(p, Piece::Sequence { id, .. } if *id == which)).count()
        };
        if texts(&self.single, Sequence::A) != 1 || texts(&self.single, Sequence::B) != 0 {
            return Err(invalid("a template for one text that does not have that text once"));
        }
        if self.single.len().max(self.pair.len()) > PIECES {
            return Err(refused(format!("a template of more than {PIECES} pieces")));
        }
        for piece in self.single.iter().chain(&self.pair) {
            let (Piece::Sequence { type_id, .. } | Piece::SpecialToken { type_id, .. }) = piece;
            if *type_id > KIND {
                return Err(refused(format!("text of kind {type_id}; at most {KIND}")));
            }
            if let Piece::SpecialToken { id, .. } = piece
                && !self.special_tokens.contains_key(id)
            {
                return Err(invalid(&format!("the template names {id:?}, which it does not define")));
            }
        }
        for (name, special) in &self.special_tokens {
            let Special { id, ids, tokens } = special;
            let sane = name == id && (1..=PIECES).contains(&ids.len()) && ids.len() == tokens.len();
            if !sane || !ids.iter().all(|&id| exists(id)) {
                return Err(invalid(&format!("{name:?} in the template does not stand for tokens")));
            }
        }
        Ok(())
    }

    fn build(self) -> Result<TemplateProcessing> {
        let template = |pieces: Vec<Piece>| {
            let pieces: Vec<Checked> = pieces.into_iter().map(Checked).collect();
            Template::try_from(pieces).map_err(|e| invalid(&e))
        };
        let special = |s: Special| SpecialToken::new(s.id, s.ids, s.tokens);
        let special: Result<Vec<_>, _> = self.special_tokens.into_values().map(special).collect();
        let mut around = TemplateProcessing::default();
        around.set_single(template(self.single)?);
        around.set_pair(template(self.pair)?);
        around.set_special_tokens(special.map_err(|e| invalid(&e.to_string()))?.into());
        Ok(around)
    }
}
