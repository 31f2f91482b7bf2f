//! OWL: a block with more outliers among its scores loses less (Yin 2023, arXiv 2310.05175). Knows no model
//! on trial.
//!
//! With `A_ij = |w_ij| n_j` (Wanda) over all linears of block l: `D_l` is the share of scores above
//! `M mean(A)`, and the share that is left out is `s - lambda (2 (D_l - min D) / (max D - min D) - mean)`.

use super::Prepass;
use crate::calibrate::Walk;
use crate::compress::Weights;
use crate::compress::prune::Score;
use crate::compress::prune::score::{of_weights, root};
use crate::error::Result;
use crate::model::block::{Block, Role};
use crate::model::decoder::Stem;
use crate::units::Alpha;

pub(super) fn shares(pass: &mut Prepass<'_, '_, '_>) -> Result<Vec<f64>> {
    let outliers = outliers(pass)?;
    let lambda = pass.job.recipe.allocation.lambda;
    let of = |block: usize| outliers[block];
    let inner = || pass.units.all.iter().filter(|unit| !unit.dense).map(|unit| of(unit.block));
    let (least, most) = (inner().fold(f64::INFINITY, f64::min), inner().fold(0.0, f64::max));
    let range = if most > least { most - least } else { 1.0 };
    let wanted = |block| pass.units.level - 2.0 * lambda * (of(block) - least) / range;
    Ok(pass.units.levelled(&pass.units.all.iter().map(|unit| wanted(unit.block)).collect::<Vec<_>>()))
}

/// `D_l` of every block.
fn outliers(pass: &mut Prepass<'_, '_, '_>) -> Result<Vec<f64>> {
    let (job, windows) = (pass.job, pass.trial_windows()?);
    let config = job.checkpoint.config();
    let mut walk = Walk::start(job.ops, config, &Stem::load(job.checkpoint)?, &windows, Alpha::ONE)?;
    let mut all = Vec::with_capacity(config.layers.len());
    for index in 0..config.layers.len() {
        let mut block = Block::load(job.checkpoint, index)?;
        let mut norms: Vec<(Role, Vec<f32>)> = Vec::new();
        walk.compress(&mut block, &mut |roles, gram, _| {
            let seen = root(&gram.diagonal());
            norms.extend(roles.iter().map(|role| (*role, seen.clone())));
            Ok(())
        })?;
        all.push(share_of_outliers(&block, &norms, job.recipe.allocation.outlier));
        pass.step(index)?;
    }
    Ok(all)
}

/// Share of a block's scores above `times` their mean; scores are made twice, and held for one linear at a time.
fn share_of_outliers(block: &Block, norms: &[(Role, Vec<f32>)], times: f64) -> f64 {
    let each = |see: &mut dyn FnMut(f64)| {
        for (role, norms) in norms {
            let Some(linear) = block.linear(*role) else { continue };
            let data = linear.weight.to_f32(Alpha::ONE);
            let w = Weights { rows: linear.weight.rows(), cols: linear.weight.cols(), data: &data };
            of_weights(Score::Wanda, &w, norms).into_iter().for_each(|score| see(f64::from(score)));
        }
    };
    let (mut sum, mut count, mut above) = (0.0, 0.0, 0.0);
    each(&mut |score| {
        sum += score;
        count += 1.0;
    });
    each(&mut |score| above += f64::from(u8::from(score * count > times * sum)));
    above / count
}
