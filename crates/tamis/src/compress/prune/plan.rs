//! What pruning one linear means, as a recipe says it: score, pattern, share of zeros, and what the
//! weights that are kept become. Knows no weights.
//!
//! Wanda: Sun 2023, arXiv 2306.11695. SparseGPT: Frantar 2023, arXiv 2301.00774.

use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::score::{BlockScore, Score};
use crate::compress::order::ActivationOrder;
use crate::error::{Error, Result};
use crate::units::Sparsity;

/// Shares nearer to each other than this are the same: that of N of M is a quotient.
const SAME: f64 = 1e-9;

/// What a weight, or a block of weights, is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// A weight's magnitude.
    Magnitude,
    /// A weight's magnitude times the norm of its input.
    Wanda,
    /// A weight's share of its row and of its column, times the root of the norm of its input.
    Ria,
    /// What leaving a weight out costs when the weights behind it make up for it, which they then do.
    Sparsegpt,
    /// A block's mean magnitude times norm: a baseline.
    MeanMagnitude,
    /// A block's sum of squares of magnitude times norm.
    Diagonal,
    /// What leaving a block out costs when all other weights make up for it.
    BrainSurgeon,
}

impl Criterion {
    /// The score of single weights, if it is one.
    pub(super) fn of_weights(self) -> Option<Score> {
        match self {
            Self::Magnitude => Some(Score::Magnitude),
            Self::Wanda => Some(Score::Wanda),
            Self::Ria => Some(Score::Ria),
            _ => None,
        }
    }
    /// The score of blocks, if it is one.
    pub(super) fn of_blocks(self) -> Option<BlockScore> {
        match self {
            Self::MeanMagnitude => Some(BlockScore::MeanMagnitude),
            Self::Diagonal => Some(BlockScore::Diagonal),
            Self::BrainSurgeon => Some(BlockScore::BrainSurgeon),
            _ => None,
        }
    }
}

/// What the kept weights become. SparseGPT moves them while it chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// Nothing else.
    None,
    /// The least-squares answer for the outputs on the calibration text. One factorisation for a strip
    /// of blocks, but one for every row where single weights were left out.
    Refit,
}

/// How kept weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// bfloat16.
    Bf16,
    /// Symmetric integers of 8 bits: a scale for each group of a row, or for each row of a block.
    Int8,
    /// The same of 4 bits.
    Int4,
}

impl FromStr for Kept {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            _ => Err(Error::usage(format!("kept weights are stored as bf16, int8 or int4, not {text:?}"))
                .next("try --kept int8")),
        }
    }
}

/// The pruning part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Pruning {
    /// What a weight is worth.
    pub score: Criterion,
    /// What is compared with what.
    pub pattern: Pattern,
    /// Share of zeros; none for what the pattern itself says, else a half.
    pub sparsity: Option<Sparsity>,
    /// How kept weights are stored.
    pub kept: Kept,
    /// What kept weights become.
    pub update: Update,
    /// Steps in which the share of zeros is reached, each with the kept weights of the one before.
    pub rounds: NonZeroUsize,
    /// Blocks that every strip of rows and of columns keeps at least.
    pub least: usize,
    /// Whether units inside the MLP and channels of values are sorted first, so that weak ones share
    /// blocks. What the model computes stays the same.
    pub permute: bool,
}

impl Default for Pruning {
    /// Wanda over rows at one half, at once, kept weights as they are in bf16; of blocks at least one a strip.
    fn default() -> Self {
        Self {
            score: Criterion::Wanda,
            pattern: Pattern::Rows,
            sparsity: None,
            kept: Kept::Bf16,
            update: Update::None,
            rounds: NonZeroUsize::MIN,
            least: 1,
            permute: false,
        }
    }
}

impl Pruning {
    /// The share of zeros that is meant.
    pub fn share(&self) -> Sparsity {
        let half = || Sparsity::new(0.5).expect("one half is a share");
        self.pattern.sparsity().or(self.sparsity).unwrap_or_else(half)
    }

    /// Whether calibration must have seen the inputs.
    pub(crate) fn needs_evidence(&self) -> bool {
        self.score != Criterion::Magnitude || self.update != Update::None
    }

    /// Refuses combinations that have no meaning.
    pub(crate) fn check(&self, order: ActivationOrder) -> Result<()> {
        let refuse = |problem: String, next: &str| Err(Error::usage(problem).next(next.to_owned()));
        let (fits, permutable) = match self.pattern {
            Pattern::Blocks { .. } => (self.score.of_blocks().is_some(), true),
            Pattern::Tiers(tiers) => {
                tiers.check(self.share())?;
                // Tiers that are not nested would bring back in one round what another left out.
                if self.rounds.get() > 1 {
                    return refuse("tiers are chosen at once".into(), "leave rounds out");
                }
                (matches!(self.score, Criterion::Diagonal | Criterion::Sparsegpt), true)
            }
            _ => (self.score.of_blocks().is_none(), false),
        };
        if !fits {
            return refuse(
                format!("a score that does not fit the pattern \"{}\"", self.pattern),
                "blocks take \"mean-magnitude\", \"diagonal\" or \"brain-surgeon\"; tiers take \"diagonal\" or \
                 \"sparsegpt\"; other patterns take \"magnitude\", \"wanda\", \"ria\" or \"sparsegpt\"",
            );
        }
        if self.permute && !permutable {
            return refuse(
                "sorted units are for blocks: other patterns lose nothing by the order".into(),
                "leave permute out",
            );
        }
        if let (Some(own), Some(asked)) = (self.pattern.sparsity(), self.sparsity)
            && (own.get() - asked.get()).abs() > SAME
        {
            return refuse(
                format!("\"{}\" leaves out {} of the weights, not {}", self.pattern, own.get(), asked.get()),
                "leave the sparsity out, or choose another pattern",
            );
        }
        if self.score == Criterion::Sparsegpt { self.check_sparsegpt(order) } else { Ok(()) }
    }

    /// What the column sweep cannot do.
    fn check_sparsegpt(&self, order: ActivationOrder) -> Result<()> {
        let refuse = |problem: String, next: &str| Err(Error::usage(problem).next(next.to_owned()));
        if self.update != Update::None || self.rounds != NonZeroUsize::MIN {
            return refuse(
                "SparseGPT moves the kept weights itself, and at once".into(),
                "leave update and rounds out",
            );
        }
        if self.pattern == Pattern::Matrix {
            return refuse(
                "SparseGPT chooses strip by strip, not by the whole matrix".into(),
                "use pattern = \"rows\"",
            );
        }
        if matches!(self.pattern, Pattern::OfEach { .. } | Pattern::Tiers(_))
            && order != ActivationOrder::None
        {
            return refuse(
                format!("SparseGPT can keep \"{}\" only if it visits neighbours together", self.pattern),
                "use order = \"none\"",
            );
        }
        Ok(())
    }

    /// Refuses a linear of `cols` inputs that the pattern cannot cut.
    pub(crate) fn check_width(&self, cols: usize) -> Result<()> {
        match self.pattern {
            Pattern::OfEach { keep, of } => Pattern::neighbours(keep, of, cols).map(drop),
            Pattern::Tiers(tiers) => tiers.check_width(cols),
            Pattern::Rows | Pattern::Matrix | Pattern::Blocks { .. } => Ok(()),
        }
    }

    /// Bits of a weight, kept or not, at most; `group` weights share a scale.
    pub(crate) fn bits_per_weight(&self, group: usize) -> f64 {
        let density = 1.0 - self.share().get();
        match (self.kept, self.whole_blocks()) {
            (Kept::Bf16, false) => 16.0 * density + 1.0,
            (Kept::Int8, false) => 8.0 * density + 1.0 + 16.0 / group as f64,
            (Kept::Int4, false) => 4.0 * density + 1.0 + 16.0 / group as f64,
            (Kept::Bf16, true) => 16.1 * density,
            (Kept::Int8, true) => 9.1 * density,
            (Kept::Int4, true) => 5.1 * density,
        }
    }

    /// Whether what is kept can be stored as blocks of 16 x 16.
    pub(super) fn whole_blocks(&self) -> bool {
        let whole = |side: usize| side > 0 && side.is_multiple_of(16);
        matches!(self.pattern, Pattern::Blocks { rows, cols } if whole(rows) && whole(cols))
    }
}
