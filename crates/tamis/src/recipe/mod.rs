//! What is to be done with a model, as a file that can be shared, diffed and run again:
//! TOML or YAML, one schema. Unknown keys are errors with their line and a suggestion.
//!
//! ```toml
//! name = "int4-ortho"
//! embedding = 16                 # bits of the embedding: 16, 8 or 4
//! head = 16
//! on-singular = "fail"           # or "rtn": what a Gram matrix without factor leads to
//!
//! [calibration]
//! samples = 128
//! length = 2048
//! seed = 0
//!
//! [default]                      # every linear; what is left out is `TensorPlan::default`
//! method = "gptq"
//! bits = 4
//!
//! [allocation]                   # how the zeros of pruning are spread over the layers
//! over = "measured"
//!
//! [[override]]                   # later ones win; each must match at least one linear
//! match = "model.layers.*.mlp.down_proj"
//! bits = 8
//! ```
//!
//! Knows no tensor and no file but the recipe itself.

mod allocation;
mod change;
mod embedded;
mod keys;
mod parse;
mod pattern;
mod resolve;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use allocation::{Allocation, Over, Unit};
pub use embedded::Summary;
pub use parse::Format;
pub use pattern::Pattern;

use crate::compress::{
    ActivationOrder, ClipSearch, Criterion, Kept, Method, OrthoMode, Pattern as Pruned, Pruning, Symmetry,
    TensorPlan, Update,
};
use crate::disk::digest::sha256;
use crate::disk::read_text;
use crate::error::{Error, Kind, Result};
use crate::units::{Bits, Damping, Density, GroupSize, Sparsity};

/// Longest recipe that is read.
pub const MAX_BYTES: u64 = 1 << 20;

/// A checked recipe. Command-line flags change its fields; [`Recipe::resolve`] applies it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// Short name.
    pub name: String,
    /// One sentence on what it is for.
    pub description: String,
    /// The plan of every linear that no override matches.
    pub default: TensorPlan,
    /// Changes for some linears, in order.
    #[serde(rename = "override")]
    pub overrides: Vec<Override>,
    /// Bits of the embedding.
    pub embedding: EndBits,
    /// Bits of the head, where it is not tied.
    pub head: EndBits,
    /// Calibration text.
    pub calibration: Calibration,
    /// How zeros are spread.
    pub allocation: Allocation,
    #[serde(skip)]
    source: Source,
}

/// Where a recipe came from, for messages.
#[derive(Debug, Clone, PartialEq, Default)]
struct Source {
    text: String,
    origin: PathBuf,
}

/// Changes to the plan of the linears that a pattern matches.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Override {
    /// Which linears.
    #[serde(rename = "match")]
    pub pattern: Pattern,
    /// What changes.
    #[serde(flatten)]
    pub changes: Changes,
}

/// The fields of a [`TensorPlan`] and of its pruning part that a recipe may set; none leaves a field as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each field is the field of `TensorPlan` or `Pruning` of the same name")]
pub struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetry: Option<Symmetry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipSearch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<ActivationOrder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<Damping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ortho: Option<OrthoMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<Density>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Criterion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pruned>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<NonZeroUsize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permute: Option<bool>,
}

impl Changes {
    /// The plan with these changes made.
    #[must_use]
    pub fn apply(&self, plan: TensorPlan) -> TensorPlan {
        TensorPlan {
            method: self.method.unwrap_or(plan.method),
            bits: self.bits.unwrap_or(plan.bits),
            group: self.group.unwrap_or(plan.group),
            symmetry: self.symmetry.unwrap_or(plan.symmetry),
            clip: self.clip.unwrap_or(plan.clip),
            order: self.order.unwrap_or(plan.order),
            damping: self.damping.unwrap_or(plan.damping),
            ortho: self.ortho.unwrap_or(plan.ortho),
            density: self.density.unwrap_or(plan.density),
            on_singular: plan.on_singular,
            pruning: self.pruning(plan.pruning),
        }
    }

    fn pruning(&self, plan: Pruning) -> Pruning {
        Pruning {
            score: self.score.unwrap_or(plan.score),
            pattern: self.pattern.unwrap_or(plan.pattern),
            sparsity: self.sparsity.or(plan.sparsity),
            kept: self.kept.unwrap_or(plan.kept),
            update: self.update.unwrap_or(plan.update),
            rounds: self.rounds.unwrap_or(plan.rounds),
            least: self.least.unwrap_or(plan.least),
            permute: self.permute.unwrap_or(plan.permute),
        }
    }
}

/// Bits of the embedding or the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum EndBits {
    /// As the model stores it.
    #[default]
    Sixteen,
    /// Symmetric integers with a scale for every 32 inputs.
    Eight,
    /// The same in half the bytes; what it costs shows in `eval`.
    Four,
}

impl TryFrom<u32> for EndBits {
    type Error = Error;
    fn try_from(bits: u32) -> Result<Self> {
        match bits {
            16 => Ok(Self::Sixteen),
            8 => Ok(Self::Eight),
            4 => Ok(Self::Four),
            _ => Err(Error::usage(format!("embedding and head take 16, 8 or 4 bits, not {bits}"))
                .next("try --embedding 8")),
        }
    }
}

impl From<EndBits> for u32 {
    fn from(bits: EndBits) -> u32 {
        match bits {
            EndBits::Sixteen => 16,
            EndBits::Four => 4,
            EndBits::Eight => 8,
        }
    }
}

/// How much text calibrates the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibration {
    /// Windows.
    pub samples: usize,
    /// Tokens a window.
    pub length: usize,
    /// Seed of the choice of windows.
    pub seed: u64,
}

impl Default for Calibration {
    /// GPTQ's protocol: 128 windows of 2048 tokens (Frantar 2022, section 4).
    fn default() -> Self {
        Self { samples: 128, length: 2048, seed: 0 }
    }
}

impl Recipe {
    /// Reads a recipe file; the format follows the extension, or the text where it has
    /// neither `.toml` nor `.yaml`/`.yml`.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_BYTES).map_err(|e| match e.kind() {
            Kind::BadData => e.of_kind(Kind::Recipe),
            _ => e,
        })?;
        let format = Format::of(path, &text);
        Self::parse(&text, format, path)
    }

    /// The recipe without comments and layout, with every default filled in.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain data serialises")
    }

    /// SHA-256 of [`Recipe::to_json`]: equal for recipes that mean the same.
    pub fn hash(&self) -> String {
        sha256(self.to_json().to_string().as_bytes())
    }

    /// The text as it was read.
    pub fn source_text(&self) -> &str {
        &self.source.text
    }
}

#[cfg(test)]
mod tests;
