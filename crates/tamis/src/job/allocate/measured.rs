//! Measured: each unit is pruned alone, at two shares, in an otherwise dense model. The damages `c s^p` that are fitted
//! to what is seen are taken to add up, and the shares are those with the least sum.
//!
//! Source: none; single-layer sensitivities are as old as pruning (Frantar 2022, arXiv 2201.13096, adds them up too).
//! Unlike the others this needs the whole decoder, to see what a unit does to what is said at the end.

use super::Prepass;
use super::share::{Curve, MOST, least_damage};
use super::trial::{Judge, with_trials};
use crate::calibrate::Walk;
use crate::error::Result;
use crate::model::Decoder;
use crate::model::block::Block;
use crate::units::Alpha;

/// Shares at which a unit is measured, in mean shares. Nobody loses more than the larger one: what a linear costs that
/// loses nearly all of its weights is not known from what a third of them costs, and damages do not add up there.
const AT: [f64; 2] = [1.0, 2.0];

pub(super) fn shares(pass: &mut Prepass<'_, '_, '_>) -> Result<Vec<f64>> {
    let points = AT.map(|times| (times * pass.units.level).min(MOST));
    let curves = curves(pass, points)?;
    Ok(pass.units.spread(|inner, weights| {
        let inner: Vec<Curve> = inner.iter().map(|&at| curves[at]).collect();
        least_damage(&inner, weights, (pass.units.level, points[1]))
    }))
}

/// The curve of every unit; that of one that stays dense means nothing.
fn curves(pass: &mut Prepass<'_, '_, '_>, points: [f64; 2]) -> Result<Vec<Curve>> {
    let job = pass.job;
    let (config, ops) = (job.checkpoint.config(), job.ops);
    let decoder = Decoder::load(job.checkpoint, ops)?;
    let mut walk = Walk::start(ops, config, decoder.stem(), &pass.trial_windows()?, Alpha::ONE)?;
    let mut held = Walk::start(ops, config, decoder.stem(), &pass.held_out()?, Alpha::ONE)?;
    let mut dense = held.clone();
    decoder.blocks().iter().for_each(|block| dense.pass_through(block));
    let judge = Judge::new(job, decoder.crown(), &dense);
    let mut curves = Vec::with_capacity(pass.units.all.len());
    for (index, block) in decoder.blocks().iter().enumerate() {
        let units = || pass.units.all.iter().filter(|unit| unit.block == index);
        let all_dense = units().all(|unit| unit.dense);
        // As it is stored: the decoder's may be in a form for products alone.
        let mut stored = Block::load(job.checkpoint, index)?;
        let trials = pass.trials(&mut walk, (index, &mut stored), &|_| {
            if all_dense { Vec::new() } else { points.to_vec() }
        })?;
        for unit in units() {
            let mut damages = [0.0; 2];
            for (at, damage) in damages.iter_mut().enumerate().filter(|_| !unit.dense) {
                let mut changed = held.clone();
                changed.pass_through(&with_trials(&stored, &trials, &unit.roles, at));
                decoder.blocks()[index + 1..].iter().for_each(|block| changed.pass_through(block));
                *damage = judge.divergence(&changed)?;
            }
            curves.push(Curve::through([(points[0], damages[0]), (points[1], damages[1])]));
        }
        held.pass_through(block);
        pass.step(index)?;
    }
    Ok(curves)
}
