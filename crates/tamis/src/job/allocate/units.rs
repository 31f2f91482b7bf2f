//! What gets one share of zeros: blocks or linears, without those that a recipe speaks about itself.
//! Knows no shares but the level one.

use super::super::run::{Plans, linear_roles};
use super::{Share, share};
use crate::compress::Method;
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::model::block::Role;
use crate::recipe::{Recipe, Unit as Per};
use crate::units::Sparsity;

/// Some linears of a block, which lose the same share.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    name: String,
    pub(super) block: usize,
    pub(super) roles: Vec<Role>,
    pub(super) weights: f64,
    /// Left as it is.
    pub(super) dense: bool,
}

/// All units, in the order of the model.
#[derive(Debug, Clone)]
pub(super) struct Units {
    pub(super) all: Vec<Unit>,
    /// The share that those which are not dense lose in the mean.
    pub(super) level: f64,
    linears: Vec<Vec<String>>, // of each unit
}

impl Units {
    /// Errors: nothing to govern; ends that leave too little to lose.
    pub(super) fn of(checkpoint: &Checkpoint, recipe: &Recipe, plans: &Plans) -> Result<Self> {
        let config = checkpoint.config();
        let (allocation, total) = (&recipe.allocation, config.layers.len());
        let (mut all, mut linears) = (Vec::<Unit>::new(), Vec::<Vec<String>>::new());
        for block in 0..total {
            let dense = block < allocation.ends[0] || block + allocation.ends[1] >= total;
            let mut fresh = true;
            for role in linear_roles(config) {
                let linear = role.name(config, block);
                if !recipe.governs(&linear, plans.plan(&linear)) {
                    continue;
                }
                if fresh || allocation.per == Per::Linear {
                    let block_name = format!("{}.{block}", config.architecture.family().names.block);
                    let name = if allocation.per == Per::Linear { linear.clone() } else { block_name };
                    all.push(Unit { name, block, roles: Vec::new(), weights: 0.0, dense });
                    linears.push(Vec::new());
                    fresh = false;
                }
                let (Some(unit), Some(names)) = (all.last_mut(), linears.last_mut()) else { continue };
                unit.roles.push(role);
                unit.weights += weights(checkpoint, &linear)?;
                names.push(linear);
            }
        }
        let level = level(&all, recipe.default.pruning.share().get())?;
        Ok(Self { all, level, linears })
    }

    /// All units that are not dense alike.
    pub(super) fn uniform(&self) -> Vec<f64> {
        self.all.iter().map(|unit| if unit.dense { 0.0 } else { self.level }).collect()
    }

    /// Shares of all units with the mean that was asked for, as near to `wanted` as one shift of all brings them.
    pub(super) fn levelled(&self, wanted: &[f64]) -> Vec<f64> {
        self.spread(|inner, weights| {
            let wanted: Vec<f64> = inner.iter().map(|&at| wanted[at]).collect();
            share::level(&wanted, weights, self.level)
        })
    }

    /// Shares that `choose` gives to the units that are not dense; it gets their places and weights.
    pub(super) fn spread(&self, choose: impl Fn(&[usize], &[f64]) -> Vec<f64>) -> Vec<f64> {
        let inner: Vec<usize> = (0..self.all.len()).filter(|&at| !self.all[at].dense).collect();
        let weights: Vec<f64> = inner.iter().map(|&at| self.all[at].weights).collect();
        let mut shares = vec![0.0; self.all.len()];
        inner.iter().zip(choose(&inner, &weights)).for_each(|(&at, share)| shares[at] = share);
        shares
    }

    pub(super) fn named(&self, shares: &[f64]) -> Vec<Share> {
        let named = |(unit, share): (&Unit, &f64)| Share {
            unit: unit.name.clone(),
            weights: unit.weights as u64,
            share: *share,
        };
        self.all.iter().zip(shares).map(named).collect()
    }
}

/// The mean share of what is not dense, if all together lose `asked`.
fn level(units: &[Unit], asked: f64) -> Result<f64> {
    let sum = |dense: bool| units.iter().filter(|u| u.dense == dense).map(|u| u.weights).sum::<f64>();
    let (dense, inner) = (sum(true), sum(false));
    if inner == 0.0 {
        return Err(Error::usage("allocation has no layer to prune")
            .next("leave [allocation] out, or the overrides or ends that take every layer"));
    }
    let level = asked * (dense + inner) / inner;
    if level > share::MOST {
        let problem = format!("the layers that are not left dense would lose {level:.3} of their weights");
        return Err(Error::usage(problem).next("ask for fewer zeros, or leave fewer blocks dense"));
    }
    Ok(level)
}

/// Writes shares into the plans of their linears; dense ones are kept.
pub(super) fn apply(units: &Units, shares: &[f64], plans: &mut Plans) -> Result<()> {
    for ((unit, share), linears) in units.all.iter().zip(shares).zip(&units.linears) {
        for linear in linears {
            let plan = plans.plan_mut(linear);
            if unit.dense {
                plan.method = Method::Keep;
            }
            plan.pruning.sparsity = Some(Sparsity::new(*share)?);
        }
    }
    Ok(())
}

fn weights(checkpoint: &Checkpoint, linear: &str) -> Result<f64> {
    let info = checkpoint.tensors().tensors().get(&format!("{linear}.weight"));
    let missing = || Error::missing("a linear of the model is not there").tensor(linear);
    Ok(info.ok_or_else(missing)?.shape.iter().map(|n| *n as f64).product())
}
