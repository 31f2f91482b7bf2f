//! What was done to one linear and what it cost. It knows no tensor names; whoever
//! writes the manifest adds them.
//!
//! The error is the layer objective of Frantar 2022, arXiv 2210.17323.

use serde::{Deserialize, Serialize};

/// Whether the planned method was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// It was.
    None,
    /// Round to nearest was used instead, for the reason given.
    Rtn(String),
}

/// Account of one compressed linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Receipt {
    /// Stored bits for each weight: codes, scales, zero points and ortho.
    pub bits_per_weight: f64,
    /// Ortho entries as a share of all weights.
    pub density: f64,
    /// Share of the weights that were pruned.
    #[serde(default)]
    pub sparsity: f64,
    /// Outputs of which no weight was kept.
    #[serde(default)]
    pub dead_outputs: usize,
    /// `tr((W-B) H (W-B)^T) / tr(W H W^T)` of the base alone; none without evidence.
    pub base_error: Option<f64>,
    /// The same with ortho added; equal to `base_error` without ortho.
    pub error: Option<f64>,
    /// Damping that was used, as a share of the mean diagonal; none where no factor was used.
    pub damping: Option<f64>,
    /// Attempts at factoring, the successful one included; 0 where no factor was used.
    pub tries: u32,
    /// Columns whose input was zero on every calibration token.
    pub dead_columns: usize,
    /// Calibration tokens behind the Gram matrix.
    pub tokens: u64,
    /// Whether the planned method was carried out.
    pub fallback: Fallback,
    /// Wall-clock time.
    pub seconds: f64,
}
