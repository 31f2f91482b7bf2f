//! A decoder that is being trained: forward and back over a batch, and its weights brought in line
//! with the masters after a step. Knows no text and no schedule.

use std::sync::Arc;

use half::bf16;
use tamis_kernels::pack::{DenseF32, DenseHalf, HalfData};

use super::block::{Tape, Trainee};
use super::crown::{self, Goal, Losses, Opinions};
use super::gradient::{Dropout, Pass};
use super::parameters::Parameters;
use super::plan::{BlockPlan, Plan, Trained, convert};
use crate::error::Result;
use crate::model::block::{NormRole, Role};
use crate::model::rotation::Rotation;
use crate::model::{Block, Decoder, Linear, Weight};
use crate::ops::{Backward, Buffer, CacheType, Ops};
use crate::workers::Workers;

/// What is kept of the way forward for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// All that is not cheap to make again.
    Off,
    /// The input of each block only: a third more work, far less memory (Chen 2016, arXiv 1604.06174).
    Blocks,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic<'a> {
    /// Op set.
    pub ops: &'a dyn Backward,
    /// Keys and values.
    pub cache: CacheType,
    /// Whether trained weights are kept in f32 for running too, or rounded to bf16.
    pub exact: bool,
    /// What is kept for the way back.
    pub checkpointing: Checkpointing,
}

/// Decoder, masters, and the plan that connects them.
#[derive(Debug)]
pub struct Student {
    /// The decoder as it runs.
    pub decoder: Decoder,
    /// What is trained.
    pub parameters: Parameters,
    /// Where it belongs.
    pub plan: Plan,
}

/// Equal sequences, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Tokens that are read.
    pub tokens: &'a [u32],
    /// Tokens of a sequence.
    pub length: usize,
    /// Noise of this batch.
    pub dropout: Dropout,
}

impl Student {
    /// Losses of a batch; adds its gradients.
    pub fn learn(&mut self, how: Arithmetic<'_>, batch: Batch<'_>, goal: Goal<'_>) -> Result<Losses> {
        let Self { decoder, parameters, plan } = self;
        let config = decoder.config();
        let positions: Vec<usize> = (0..batch.tokens.len()).map(|i| i % batch.length).collect();
        let rotations = Rotation::all(config, &positions);
        let buffers = how.ops.buffers();
        let pass = Pass {
            ops: how.ops,
            config,
            rotations: &rotations,
            length: batch.length,
            cache: how.cache,
            buffers: &buffers,
            dropout: batch.dropout,
        };
        let mut x = buffers.copy(&decoder.stem().embed(how.ops, config, batch.tokens, &positions)?);
        let trainee = |index| Trainee { block: &decoder.blocks()[index], plan: &plan.blocks[index], index };
        let mut kept = Vec::new();
        for index in 0..decoder.blocks().len() {
            let before = (how.checkpointing == Checkpointing::Blocks).then(|| buffers.copy(&x));
            let (tape, after) = trainee(index).forward(pass, x);
            x = after;
            kept.push(before.map_or_else(|| Kept::Tape(Box::new(tape)), Kept::Input));
        }
        let (mut losses, mut dx) = crown::loss(pass, decoder, plan, parameters, (&x, goal));
        let shape = (config.hidden, goal.rows);
        let mut after = goal.features.map(|_| x);
        for (index, kept) in kept.into_iter().enumerate().rev() {
            if let (Some(features), Some(x)) = (goal.features, &after) {
                losses.feature += features.pull(how.ops, (x, index), shape, &mut dx);
            }
            let tape = match kept {
                Kept::Tape(tape) => *tape,
                Kept::Input(x) => trainee(index).forward(pass, x).0,
            };
            after = goal.features.map(|_| buffers.copy(tape.input()));
            dx = trainee(index).backward(pass, tape, parameters, dx);
        }
        if let Some(id) = plan.embedding {
            if let Some(project) = decoder.stem().project_in() {
                dx = pass.product_back(project, &dx);
            }
            crown::embedding_back(pass, (batch.tokens, &dx), parameters.grads(id));
        }
        Ok(losses)
    }

    /// Brings the decoder in line with the masters.
    pub fn refresh(&mut self, how: Arithmetic<'_>) -> Result<()> {
        let Self { decoder, parameters, plan } = self;
        for (block, plan) in decoder.blocks_mut().iter_mut().zip(&plan.blocks) {
            refresh_block(how, (block, plan), parameters)?;
        }
        if let (Some(norm), Some(plan)) = (decoder.final_norm_mut(), plan.final_norm) {
            norm.scale.copy_from_slice(parameters.values(plan.scale));
            norm.bias = plan.bias.map(|id| parameters.values(id).to_vec()).or(norm.bias.take());
        }
        let table = (decoder.config().vocab, decoder.config().embedding_width);
        let weight = |id| {
            let values = parameters.values(id);
            if how.exact {
                return exact(table, values.to_vec());
            }
            let mut half = vec![bf16::ZERO; values.len()];
            convert(how.ops, values, &mut half, bf16::from_f32);
            rounded(table, half)
        };
        if let Some(id) = plan.embedding {
            decoder.set_embedding(weight(id));
        }
        if let Some(id) = plan.head {
            decoder.set_head(weight(id));
        }
        Ok(())
    }
}

enum Kept {
    Tape(Box<Tape>),
    Input(Buffer),
}

const SHAPE: &str = "a parameter has the shape of its layer";

fn exact(shape: (usize, usize), values: Vec<f32>) -> Weight {
    Weight::F32(DenseF32::new(shape.0, shape.1, values).expect(SHAPE))
}

fn rounded(shape: (usize, usize), values: Vec<bf16>) -> Weight {
    Weight::Half(DenseHalf::new(shape.0, shape.1, HalfData::Bf16(values)).expect(SHAPE))
}

/// Brings one block in line with its masters.
pub(super) fn refresh_block(
    how: Arithmetic<'_>,
    (block, plan): (&mut Block, &BlockPlan),
    parameters: &Parameters,
) -> Result<()> {
    for role in Role::ALL {
        if let Some(linear) = block.linear_mut(role) {
            refresh_linear(how, linear, &plan.linear(role).weight, parameters)?;
            if let Some(id) = plan.linear(role).bias {
                linear.bias = Some(parameters.values(id).to_vec());
            }
        }
    }
    for role in NormRole::ALL {
        if let (Some(norm), Some(plan)) = (block.norm_mut(role), plan.norm(role)) {
            norm.scale.copy_from_slice(parameters.values(plan.scale));
            norm.bias = plan.bias.map(|id| parameters.values(id).to_vec()).or(norm.bias.take());
        }
    }
    Ok(())
}

fn refresh_linear(
    how: Arithmetic<'_>,
    linear: &mut Linear,
    trained: &Trained,
    parameters: &Parameters,
) -> Result<()> {
    let shape = (linear.weight.rows(), linear.weight.cols());
    if let Trained::LowRank(pair) = trained {
        linear.adapter = Some(Arc::new(pair.low_rank(shape, parameters)?));
        return Ok(());
    }
    let masters = (how.ops as &dyn Ops, parameters);
    if how.exact {
        if let Some(values) = trained.values(shape, masters, |v| v)? {
            linear.weight = exact(shape, values);
        }
    } else if let (false, Some(stored)) = (trained.keeps_apart(), half_of(&mut linear.weight)) {
        trained.write(shape, masters, bf16::from_f32, stored)?;
    } else if let Some(values) = trained.values(shape, masters, bf16::from_f32)? {
        linear.weight = rounded(shape, values);
    }
    Ok(())
}

/// The values of a matrix of bf16: after the first refresh its memory is used again.
fn half_of(weight: &mut Weight) -> Option<&mut [bf16]> {
    if let Weight::Half(half) = weight { half.bf16_mut() } else { None }
}

/// Sum of the cross-entropies of the tokens of whole windows with what comes before them in the window, and
/// their number: `length - 1` of each window.
pub fn score(how: Arithmetic<'_>, decoder: &Decoder, windows: &[u32], length: usize) -> Result<(f64, usize)> {
    const TOGETHER: usize = 1024;
    let (mut sum, mut count) = (0.0, 0);
    for tokens in windows.chunks((TOGETHER / length).max(1) * length) {
        let x = last_stream(how, decoder, (tokens, length))?;
        // The last token of a window has no successor there: its row is compared with itself and not counted.
        let targets: Vec<u32> =
            (0..tokens.len()).map(|i| tokens[if (i + 1) % length == 0 { i } else { i + 1 }]).collect();
        let losses = crown::row_losses((how.ops, decoder), &x, &targets);
        let counted = losses.iter().enumerate().filter(|(i, _)| (i + 1) % length != 0);
        counted.for_each(|(_, loss)| {
            sum += f64::from(*loss);
            count += 1;
        });
    }
    Ok((sum, count))
}

/// The mean of [`score`] over all windows, of which each worker takes its part.
pub fn mean_loss(
    how: Arithmetic<'_>,
    workers: &dyn Workers,
    decoder: &Decoder,
    (windows, length): (&[u32], usize),
) -> Result<f64> {
    let mine: Vec<u32> = workers.part(windows.chunks_exact(length)).flatten().copied().collect();
    let (sum, count) = score(how, decoder, &mine, length)?;
    let mut sums = [sum, count as f64];
    workers.sum_f64(&mut sums);
    Ok(sums[0] / sums[1].max(1.0))
}

/// What a teacher thinks of every token of whole sequences.
pub fn opinions(
    how: Arithmetic<'_>,
    teacher: &Decoder,
    sequences: (&[u32], usize),
    kept: (usize, f32),
) -> Result<Opinions> {
    let x = last_stream(how, teacher, sequences)?;
    Ok(crown::opinions((how.ops, teacher), &x, kept))
}

/// The residual streams of whole sequences of equal length after each block, `[blocks][m, hidden]`.
pub fn streams(how: Arithmetic<'_>, decoder: &Decoder, sequences: (&[u32], usize)) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(decoder.blocks().len());
    each_stream(how, decoder, sequences, &mut |x| all.push(x.to_vec()))?;
    Ok(all)
}

/// The last residual stream of whole sequences of equal length.
fn last_stream(how: Arithmetic<'_>, decoder: &Decoder, sequences: (&[u32], usize)) -> Result<Buffer> {
    each_stream(how, decoder, sequences, &mut |_| ())
}

/// The last residual stream; `see` sees that after each block.
fn each_stream(
    how: Arithmetic<'_>,
    decoder: &Decoder,
    (tokens, length): (&[u32], usize),
    see: &mut dyn FnMut(&[f32]),
) -> Result<Buffer> {
    let config = decoder.config();
    let positions: Vec<usize> = (0..tokens.len()).map(|i| i % length).collect();
    let rotations = Rotation::all(config, &positions);
    let dropout = Dropout::default();
    let Arithmetic { ops, cache, .. } = how;
    let buffers = &ops.buffers();
    let pass = Pass { ops, config, rotations: &rotations, length, cache, buffers, dropout };
    let mut x = buffers.copy(&decoder.stem().embed(ops, config, tokens, &positions)?);
    for (index, block) in decoder.blocks().iter().enumerate() {
        x = Trainee { block, plan: &BlockPlan::FROZEN, index }.forward(pass, x).1;
        see(&x);
    }
    Ok(x)
}
