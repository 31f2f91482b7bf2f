//! How a recipe spreads the zeros of pruning over the layers of a model. Knows no layer and no share.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What decides how much a layer loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Nothing: all lose the same share.
    #[default]
    Uniform,
    /// How many outliers its scores have.
    Owl,
    /// Its depth, by the slope that serves a pruned model best.
    Slope,
    /// What it was seen to cost when it alone was pruned.
    Measured,
}

impl FromStr for Over {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "owl" => Ok(Self::Owl),
            "slope" => Ok(Self::Slope),
            "measured" => Ok(Self::Measured),
            _ => Err(Error::usage(format!(
                "zeros are allocated uniform, owl, slope or measured, not {text:?}"
            ))
            .next("try --allocation uniform")),
        }
    }
}

/// What gets one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A decoder block.
    #[default]
    Block,
    /// A linear; only where shares are measured.
    Linear,
}

/// The `[allocation]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Allocation {
    /// What decides.
    pub over: Over,
    /// What gets one share.
    pub per: Unit,
    /// Decoder blocks left dense at the beginning and at the end. The others lose more for it.
    pub ends: [usize; 2],
    /// `owl`: an outlier is a score of so many means.
    pub outlier: f64,
    /// `owl`: the most that a share lies away from the middle.
    pub lambda: f64,
    /// `slope`: slopes that are tried. At `c` the first block loses `1 - c` times the mean share and
    /// the last one `1 + c` times.
    pub candidates: Vec<f64>,
    /// `slope` and `measured`: windows to judge on, apart from those that calibrate.
    pub held_out: usize,
    /// `owl`, `slope` and `measured`: windows that calibrate trials.
    pub trial: usize,
}

impl Default for Allocation {
    /// Uniform; 5 means and 0.08 as the paper of OWL has it.
    fn default() -> Self {
        Self {
            over: Over::Uniform,
            per: Unit::Block,
            ends: [0, 0],
            outlier: 5.0,
            lambda: 0.08,
            candidates: vec![-0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8],
            held_out: 4,
            trial: 8,
        }
    }
}

impl Allocation {
    /// Whether all layers lose the same.
    pub fn is_level(&self) -> bool {
        self.over == Over::Uniform && self.ends == [0, 0]
    }

    /// Windows that a run must hold out.
    pub fn windows(&self) -> usize {
        if matches!(self.over, Over::Slope | Over::Measured) { self.held_out } else { 0 }
    }

    /// Refuses numbers without meaning.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |problem: String| {
            Err(Error::usage(format!("allocation: {problem}"))
                .next("tamis recipe show tiers50 has an example"))
        };
        if !(self.outlier.is_finite() && self.outlier > 0.0) {
            return wrong(format!("an outlier of {} means is none", self.outlier));
        }
        if !(0.0..1.0).contains(&self.lambda) {
            return wrong(format!("lambda must lie in [0, 1), not {}", self.lambda));
        }
        if self.candidates.is_empty() || self.candidates.iter().any(|c| !(-1.0..=1.0).contains(c)) {
            return wrong("candidates are slopes in [-1, 1], at least one".into());
        }
        if self.held_out == 0 || self.trial == 0 {
            return wrong("held-out and trial are at least one window".into());
        }
        if self.per == Unit::Linear && !matches!(self.over, Over::Measured | Over::Uniform) {
            return wrong("only measured shares can be those of linears".into());
        }
        Ok(())
    }
}
