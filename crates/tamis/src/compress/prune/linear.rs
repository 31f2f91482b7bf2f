//! One linear, pruned as its plan says: choose, update, store. Knows no score and no pattern by name.
//!
//! Gradual rounds as in Zhu 2017, arXiv 1710.01878, but inside one layer and without training.

use tamis_kernels::pack::{
    BLOCK_SIDE, BitmapKind, BitmapMatrix, BlockKind, BlockMatrix, PackError, SparseRows,
};

use super::mask::Mask;
use super::pattern::{self, Blocked, Pattern};
use super::plan::{Criterion, Kept, Pruning, Update};
use super::tiers::{self, Losses};
use super::{refit, score, sparsegpt};
use crate::compress::evidence::Evidence;
use crate::compress::lanes::Weights;
use crate::compress::plan::TensorPlan;
use crate::compress::receipt::Fallback;
use crate::compress::threads::Threads;
use crate::compress::{FactorRecord, Made};
use crate::error::{Error, Result};
use crate::model::Weight;
use crate::units::Sparsity;

/// Errors: no evidence where the score needs it; a Gram matrix that cannot be factored where that is
/// needed; a pattern that the linear is not wide enough for.
pub(in crate::compress) fn linear(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    plan: &TensorPlan,
    threads: Threads,
) -> Result<Made> {
    let pruning = &plan.pruning;
    let heard = match evidence {
        Some(evidence) if clears_dead(pruning.score) => without_dead(w, evidence.dead()),
        _ => None,
    };
    let w = &Weights { data: heard.as_deref().unwrap_or(w.data), ..*w };
    let (values, mask, record) = if pruning.score == Criterion::Sparsegpt {
        let factored = known(evidence)?.factored()?;
        let (values, mask) = if let Pattern::Tiers(allowed) = pruning.pattern {
            let losses = score::losses(w, known(evidence)?);
            let losses = Losses { data: &losses, cols: w.cols };
            let tiered = tiers::choose(allowed, losses, (pruning.share(), pruning.least), threads)?;
            sparsegpt::within_tiers(w, &factored.u, &tiered, threads)?
        } else {
            sparsegpt::prune(w, &factored.u, (pruning.pattern, pruning.share()), threads)?
        };
        (values, mask, Some(factored.record))
    } else {
        gradual(w, evidence, pruning, threads)?
    };
    let group = plan.group.length(w.cols);
    let weight = store((w.rows, w.cols), &values, &mask, (pruning, group))
        .map_err(|e| Error::bad_data(e.to_string()))?;
    Ok(Made { weight, record, fallback: Fallback::None })
}

/// Whether the weights of dead inputs are taken for zeros before a score sees them: the sweep and the brain surgeon
/// would find them as dear as average ones.
fn clears_dead(score: Criterion) -> bool {
    score == Criterion::Sparsegpt || score.of_blocks().is_some()
}

/// The weights with zeros for those of dead inputs: nothing hears them, so they must cost nothing to leave out. None
/// where all inputs are alive. SparseGPT's code does the same (arXiv 2301.00774, `W[:, dead] = 0`).
fn without_dead(w: &Weights<'_>, dead: &[usize]) -> Option<Vec<f32>> {
    if dead.is_empty() {
        return None;
    }
    let mut data = w.data.to_vec();
    data.chunks_exact_mut(w.cols).for_each(|row| dead.iter().for_each(|&column| row[column] = 0.0));
    Some(data)
}

fn known(evidence: Option<&Evidence>) -> Result<&Evidence> {
    evidence.ok_or_else(|| {
        Error::usage("this score needs calibration and there is none")
            .next("pass --calibration FILE, or choose the score magnitude")
    })
}

/// Chooses in rounds. What a round leaves out stays out: its weights are zero, the lowest score of all.
fn gradual(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    pruning: &Pruning,
    threads: Threads,
) -> Result<(Vec<f32>, Mask, Option<FactorRecord>)> {
    let rounds = pruning.rounds.get();
    let mut values = w.data.to_vec();
    let mut mask = None;
    for round in 1..=rounds {
        let share = Sparsity::new(pruning.share().get() * round as f64 / rounds as f64)?;
        let chosen = choose(&Weights { data: &values, ..*w }, evidence, (pruning, share), threads)?;
        chosen.apply(&mut values);
        if pruning.update == Update::Refit {
            let strip = if let Pattern::Blocks { rows, .. } = pruning.pattern { rows } else { 1 };
            values = refit::strips(w, &chosen, known(evidence)?, strip, threads)?;
        }
        mask = Some(chosen);
    }
    let record = match (pruning.score, evidence) {
        (Criterion::BrainSurgeon, Some(evidence)) => Some(evidence.factored()?.record),
        _ => None,
    };
    Ok((values, mask.expect("there is at least one round"), record))
}

fn choose(
    w: &Weights<'_>,
    evidence: Option<&Evidence>,
    (pruning, share): (&Pruning, Sparsity),
    threads: Threads,
) -> Result<Mask> {
    if let Pattern::Tiers(allowed) = pruning.pattern {
        let losses = score::losses(w, known(evidence)?);
        let losses = Losses { data: &losses, cols: w.cols };
        return Ok(tiers::choose(allowed, losses, (share, pruning.least), threads)?.mask(losses));
    }
    if let (Pattern::Blocks { rows, cols }, Some(by)) = (pruning.pattern, pruning.score.of_blocks()) {
        let scores = score::of_blocks(by, w, known(evidence)?, (rows, cols))?;
        let cut = Blocked { shape: (w.rows, w.cols), block: (rows, cols), least: pruning.least };
        return Ok(pattern::blocks(&scores, cut, share));
    }
    let by = pruning.score.of_weights().ok_or_else(|| Error::defect("a score without a pattern"))?;
    let norms = match evidence {
        Some(evidence) => score::norms(evidence),
        None => vec![1.0; w.cols],
    };
    pattern::weights(pruning.pattern, &score::of_weights(by, w, &norms), w.cols, share)
}

/// The smallest layout that holds the kept weights.
fn store(
    shape: (usize, usize),
    values: &[f32],
    mask: &Mask,
    (pruning, group): (&Pruning, usize),
) -> Result<Weight, PackError> {
    if pruning.whole_blocks() {
        let kind = match pruning.kept {
            Kept::Bf16 => BlockKind::Bf16,
            Kept::Int8 => BlockKind::Int8,
            Kept::Int4 => BlockKind::Int4,
        };
        return BlockMatrix::from_dense(shape, values, &blocks_of(shape, mask), kind).map(Weight::Blocks);
    }
    let kind = match pruning.kept {
        Kept::Int8 => BitmapKind::Int8 { group },
        Kept::Int4 => BitmapKind::Int4 { group },
        Kept::Bf16 => BitmapKind::Bf16,
    };
    let bitmap = BitmapMatrix::from_dense(shape, values, mask.flags(), kind)?;
    // Sparse rows need a column for each weight, a bitmap a bit for each place.
    match SparseRows::from_dense(shape, values, mask.flags()) {
        Ok(sparse) if sparse.bytes() < bitmap.bytes() => Ok(Weight::Sparse(sparse)),
        _ => Ok(Weight::Bitmap(bitmap)),
    }
}

/// Which blocks of 16 x 16 hold a kept weight.
fn blocks_of((rows, cols): (usize, usize), mask: &Mask) -> Vec<bool> {
    let across = cols.div_ceil(BLOCK_SIDE);
    let mut blocks = vec![false; rows.div_ceil(BLOCK_SIDE) * across];
    for row in 0..rows {
        for (col, _) in mask.row(row).iter().enumerate().filter(|(_, kept)| **kept) {
            blocks[row / BLOCK_SIDE * across + col / BLOCK_SIDE] = true;
        }
    }
    blocks
}
