//! What is to be done with one linear, as a recipe says it. It knows no tensor.
//!
//! Defaults follow GPTQ (Frantar 2022, arXiv 2210.17323) with static groups.

use serde::{Deserialize, Serialize};

use super::grid::{ClipSearch, GridSpec, Symmetry};
use super::order::ActivationOrder;
use super::prune::Pruning;
use crate::error::{Error, Result};
use crate::units::{Bits, Damping, Density, GroupSize};

/// How the weights are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Round to nearest.
    Rtn,
    /// Column sweep with error compensation.
    Gptq,
    /// Weights are left out, as the pruning part of the plan says.
    Prune,
    /// Untouched: 16 bits, or the mask and the kept weights of a linear that is pruned already.
    Keep,
}

/// How the ortho stream is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrthoMode {
    /// No stream.
    None,
    /// Greedy support and least-squares values on an untouched base.
    Quality,
    /// Outliers leave the base during the sweep (SpQR).
    Joint,
    /// The largest residuals: a control for tables, not a recommendation.
    TopResidual,
}

/// What follows when the Gram matrix cannot be factored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSingular {
    /// Round to nearest; the receipt says so.
    Rtn,
    /// An error.
    Fail,
}

/// The plan of one linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TensorPlan {
    /// Width of a code.
    pub bits: Bits,
    /// Columns that share a scale.
    pub group: GroupSize,
    /// Where a grid has its zero.
    pub symmetry: Symmetry,
    /// How a scale is found.
    pub clip: ClipSearch,
    /// Column order of the sweep.
    pub order: ActivationOrder,
    /// Share of the mean diagonal added to the Gram matrix.
    pub damping: Damping,
    /// How the weights are made.
    pub method: Method,
    /// How the ortho stream is made.
    pub ortho: OrthoMode,
    /// Share of entries that the ortho stream may hold.
    pub density: Density,
    /// What a singular Gram matrix leads to. Pruning always fails: a mask that was chosen by another
    /// score than the one that was asked for is another model.
    pub on_singular: OnSingular,
    /// Which weights are left out, where the method is to prune.
    pub pruning: Pruning,
}

impl Default for TensorPlan {
    /// Symmetric INT4 in groups of 128, GPTQ with static activation order and clip
    /// search, 1 % damping, no ortho (0.5 % where a mode is chosen).
    fn default() -> Self {
        let fixed = "the default lies in the range of its type";
        Self {
            bits: Bits::new(4).expect(fixed),
            group: GroupSize::Of(128),
            symmetry: Symmetry::Symmetric,
            clip: ClipSearch::Search,
            order: ActivationOrder::Static,
            damping: Damping::new(0.01).expect(fixed),
            method: Method::Gptq,
            ortho: OrthoMode::None,
            density: Density::new(0.005).expect(fixed),
            on_singular: OnSingular::Rtn,
            pruning: Pruning::default(),
        }
    }
}

impl TensorPlan {
    /// The part that says what the grids look like.
    pub fn grid(&self) -> GridSpec {
        GridSpec { bits: self.bits, group: self.group, symmetry: self.symmetry, clip: self.clip }
    }

    /// Refuses combinations that have no meaning, before any work is done.
    pub fn check(&self) -> Result<()> {
        if self.ortho == OrthoMode::Joint && self.method != Method::Gptq {
            return Err(Error::usage("ortho \"joint\" decides inside the sweep, but the method is \"rtn\"")
                .next("use method \"gptq\", or ortho \"quality\""));
        }
        if matches!(self.method, Method::Prune | Method::Keep) && self.ortho != OrthoMode::None {
            return Err(Error::usage(
                "an ortho stream lies on a quantised base, but nothing is quantised here",
            )
            .next("use ortho \"none\""));
        }
        match self.method {
            Method::Prune => self.pruning.check(self.order),
            _ => Ok(()),
        }
    }

    /// Bits of a weight in rows of `cols`, at most: codes, scales, zero points, bits of a bitmap, ortho.
    pub fn bits_per_weight(&self, cols: usize) -> f64 {
        match self.method {
            Method::Keep => 16.0,
            Method::Prune => self.pruning.bits_per_weight(self.group.length(cols)),
            Method::Rtn | Method::Gptq => {
                let ortho = if self.ortho == OrthoMode::None { 0.0 } else { 33.0 * self.density.get() };
                f64::from(self.bits.get()) + 24.0 / self.group.length(cols) as f64 + ortho
            }
        }
    }

    /// Whether calibration must have seen the inputs of the linear.
    pub fn needs_evidence(&self) -> bool {
        match self.method {
            Method::Gptq => true,
            Method::Rtn => self.ortho != OrthoMode::None,
            Method::Prune => self.pruning.needs_evidence(),
            Method::Keep => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_reads_kebab_case_fills_defaults_and_refuses_unknown_names() {
        let text = r#"{"bits": 3, "group": "row", "ortho": "top-residual", "on-singular": "fail"}"#;
        let plan: TensorPlan = serde_json::from_str(text).unwrap();
        assert_eq!((plan.bits.get(), plan.group, plan.ortho), (3, GroupSize::Row, OrthoMode::TopResidual));
        assert_eq!(plan.damping, TensorPlan::default().damping);
        let again: TensorPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(again, plan);
        assert!(serde_json::from_str::<TensorPlan>(r#"{"bit": 3}"#).is_err());
        assert!(serde_json::from_str::<TensorPlan>(r#"{"damping": 0}"#).is_err());
    }

    #[test]
    fn joint_without_a_sweep_is_refused() {
        let plan = TensorPlan { method: Method::Rtn, ortho: OrthoMode::Joint, ..TensorPlan::default() };
        assert!(plan.check().is_err());
    }
}
