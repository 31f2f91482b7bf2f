//! The configuration of a model that is trained from scratch, as TOML:
//!
//! ```toml
//! [model]
//! hidden = 192
//! intermediate = 432
//! layers = 5
//! heads = 6
//! kv-heads = 2
//! context = 256
//!
//! [data.nano]              # the synthetic corpus; or [data.files] with train, valid and tokenizer
//! seed = 1
//! bytes = 50_000_000
//!
//! [training]
//! epochs = 1
//! batch = 32
//! lr = 3e-3
//! ```
//!
//! Knows no weights.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bounds;
use crate::disk::read_text;
use crate::error::{Error, Kind, Result};
use crate::nano::CorpusPlan;
use crate::recipe::MAX_BYTES;
use crate::recover::settings::{Optimiser, Schedule};

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Shape of the model, which is of the Llama family.
    pub model: Shape,
    /// What it reads.
    pub data: Data,
    /// How it learns.
    pub training: Training,
}

/// Shape of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Base of the rotary angles.
    #[serde(default = "theta")]
    pub rope_theta: f64,
}

fn theta() -> f64 {
    10_000.0
}

/// What the model reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Data {
    /// The synthetic corpus, with a tokenizer of its own.
    Nano(NanoData),
    /// Files, with a tokenizer that is there.
    Files {
        /// Training text: .txt or .jsonl.
        train: PathBuf,
        /// Validation text.
        valid: PathBuf,
        /// A `tokenizer.json`.
        tokenizer: PathBuf,
    },
}

impl Data {
    /// Training text, validation text and tokenizer; none where they are made.
    pub fn files(&self) -> [Option<&Path>; 3] {
        match self {
            Self::Nano(_) => [None; 3],
            Self::Files { train, valid, tokenizer } => [train, valid, tokenizer].map(|file| Some(&**file)),
        }
    }
}

/// A synthetic corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NanoData {
    /// Decides the world, the secrets and every text.
    pub seed: u64,
    /// Bytes of grammar and problems.
    pub bytes: usize,
    /// Share of them that are problems.
    #[serde(default = "share")]
    pub problem_share: f64,
}

fn share() -> f64 {
    CorpusPlan::default().problem_share
}

impl NanoData {
    /// As the corpus wants it.
    pub fn plan(&self) -> CorpusPlan {
        let &Self { seed, bytes, problem_share } = self;
        CorpusPlan { seed, bytes, problem_share, ..CorpusPlan::default() }
    }
}

/// How the model learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Training {
    /// Passes over the text.
    pub epochs: f64,
    /// Sequences a step.
    pub batch: usize,
    /// Highest learning rate; it falls to zero along half a cosine.
    pub lr: f64,
    /// Steps in which it rises.
    #[serde(default = "warmup")]
    pub warmup: usize,
    /// Decoupled decay of matrices.
    #[serde(default)]
    pub weight_decay: f32,
    /// Steps between validations; a twentieth of all where it is left out.
    #[serde(default)]
    pub every: Option<usize>,
    /// Windows of validation.
    #[serde(default = "windows")]
    pub windows: usize,
    /// First weights, and the order of sequences.
    #[serde(default)]
    pub seed: u64,
}

fn warmup() -> usize {
    100
}
fn windows() -> usize {
    64
}

impl Training {
    /// AdamW with the second decay that short runs want.
    pub fn optimiser(&self) -> Optimiser {
        Optimiser {
            lr: self.lr,
            schedule: Schedule::Cosine,
            warmup: self.warmup,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: self.weight_decay,
            clip: 1.0,
        }
    }
}

impl Plan {
    /// Reads a file.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path, MAX_BYTES)?, path)
    }

    /// Reads a text that came from `origin`. Errors name the line.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let plan: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1) as u64);
            let error = Error::new(Kind::Recipe, e.message().to_owned()).file(origin);
            line.map_or(error.clone(), |line| error.line(line))
        })?;
        bounds::check(&plan).map_err(|refused| refused.error(Some(text)).file(origin))?;
        Ok(plan)
    }

    /// Refuses numbers that make no model, no text and no training ([`Kind::Recipe`]).
    pub fn check(&self) -> Result<()> {
        bounds::check(self).map_err(|refused| refused.error(None))
    }
}
