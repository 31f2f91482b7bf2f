//! ALS: shares in one arithmetic progression over depth, its slope found by trial (2025, arXiv 2502.14770).
//!
//! At slope `c` block `l` of `L` loses `s (1 + c (2 l / (L - 1) - 1))`. All slopes are tried in one pass: each
//! has its own held-out stream, which goes through its own pruned blocks.

use super::Prepass;
use super::trial::{Judge, with_trials};
use crate::calibrate::Walk;
use crate::error::Result;
use crate::model::block::Block;
use crate::model::decoder::{Crown, Stem};
use crate::units::Alpha;

pub(super) fn shares(pass: &mut Prepass<'_, '_, '_>) -> Result<Vec<f64>> {
    let candidates: Vec<Vec<f64>> =
        pass.job.recipe.allocation.candidates.iter().map(|slope| at(pass, *slope)).collect();
    let damages = damages(pass, &candidates)?;
    // Of equal ones the first.
    let best = (0..damages.len()).min_by(|a, b| damages[*a].total_cmp(&damages[*b])).unwrap_or(0);
    Ok(candidates[best].clone())
}

/// The shares of all units at this slope.
fn at(pass: &Prepass<'_, '_, '_>, slope: f64) -> Vec<f64> {
    let last = (pass.job.checkpoint.config().layers.len() - 1).max(1) as f64;
    let wanted = |block: usize| pass.units.level * (1.0 + slope * (2.0 * block as f64 / last - 1.0));
    pass.units.levelled(&pass.units.all.iter().map(|unit| wanted(unit.block)).collect::<Vec<_>>())
}

/// How far the model lies from the dense one at each of the candidates.
fn damages(pass: &mut Prepass<'_, '_, '_>, candidates: &[Vec<f64>]) -> Result<Vec<f64>> {
    let job = pass.job;
    let (config, ops) = (job.checkpoint.config(), job.ops);
    let stem = Stem::load(job.checkpoint)?;
    let mut walk = Walk::start(ops, config, &stem, &pass.trial_windows()?, Alpha::ONE)?;
    let mut dense = Walk::start(ops, config, &stem, &pass.held_out()?, Alpha::ONE)?;
    let mut pruned = vec![dense.clone(); candidates.len()];
    for index in 0..config.layers.len() {
        let mut block = Block::load(job.checkpoint, index)?;
        let units: Vec<usize> =
            (0..pass.units.all.len()).filter(|u| pass.units.all[*u].block == index).collect();
        let trials = pass.trials(&mut walk, (index, &mut block), &|role| {
            let unit = units.iter().find(|u| pass.units.all[**u].roles.contains(&role));
            unit.map_or(Vec::new(), |unit| candidates.iter().map(|shares| shares[*unit]).collect())
        })?;
        let roles: Vec<_> = units.iter().flat_map(|u| pass.units.all[*u].roles.clone()).collect();
        for (at, held) in pruned.iter_mut().enumerate() {
            held.pass_through(&with_trials(&block, &trials, &roles, at));
        }
        dense.pass_through(&block);
        pass.step(index)?;
    }
    let crown = Crown::load(job.checkpoint, &stem)?;
    let judge = Judge::new(job, &crown, &dense);
    pruned.iter().map(|walk| judge.divergence(walk)).collect()
}
