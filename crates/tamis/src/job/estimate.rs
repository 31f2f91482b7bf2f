//! Memory and disk of a run, known before it starts.
//!
//! Peak = what the walk keeps (residual stream, carried activations, one batch in
//! flight) + one block as stored + the largest linear on the bench + the embedding
//! while the windows are embedded, whichever moment is largest. Allocation comes before;
//! what it held is added, because an allocator may not give it back (seen: 842 MiB where the larger of
//! both would have been 627).

use serde::Serialize;

use super::allocate::{LOGIT_ROWS, assume, judged};
use super::run::{Job, Plans};
use crate::calibrate::Walk;
use crate::error::Result;
use crate::load::Checkpoint;
use crate::memory::{self, PROGRAM};
use crate::model::block::Role;
use crate::model::footprint::Sizes;
use crate::recipe::Over;

/// Bytes a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Calibration activations: residual stream, carried inputs, one batch in flight.
    pub activations: u64,
    /// The largest block as the source stores it.
    pub block: u64,
    /// Copies and factors of the largest linear while it is compressed.
    pub bench: u64,
    /// Embedding in memory while the windows are embedded.
    pub embedding: u64,
    /// What allocating zeros to layers takes before the first block: streams, trials, the whole decoder
    /// where shares are measured.
    pub allocation: u64,
    /// The program itself: code, tokenizer, tensor index.
    pub program: u64,
    /// Most memory at any moment.
    pub peak: u64,
    /// Bytes of all tensors of the source.
    pub source: u64,
    /// Bytes of all tensors of the result.
    pub result: u64,
    /// Room needed on disk while the parts are put together.
    pub disk: u64,
}

/// Bytes for each weight of a linear while all are compared: as it was, as it becomes, score, place in the order, flag.
const COMPARED: u64 = 4 + 4 + 4 + 8 + 1;

impl Estimate {
    /// What is refused where there is less memory.
    pub fn plan(&self) -> memory::Plan<'static> {
        let smaller = "use fewer --samples, a smaller --length or fewer --threads";
        memory::Plan { what: "compressing this model", bytes: self.peak, smaller }
    }

    /// Plans `job`. Errors: those of resolving the recipe.
    pub fn of(job: &Job<'_>) -> Result<Self> {
        let mut plans = Plans::resolve(job.checkpoint, job.recipe)?;
        assume(job, &mut plans)?;
        let config = job.checkpoint.config();
        let tokens = job
            .calibration
            .as_ref()
            .map_or(0, |c| (c.windows.count().div_ceil(job.workers.size()) * c.windows.length()) as u64);
        let activations = if tokens == 0 { 0 } else { Walk::bytes(config, tokens) };
        let sizes = Sizes::of(job.checkpoint);
        let factors = if plans.refits() { refits(config, job.threads.count()) } else { 0 };
        let calibrated = job.calibration.is_some() || plans.needs_calibration();
        let bench = if calibrated { bench(config) + factors } else { sizes.largest * 12 };
        let bench = if plans.compares_all() { bench.max(sizes.largest * COMPARED) } else { bench };
        // as stored by the source, as stored by us, and the latter once more on its way to disk
        let embedding = sizes.embedding + config.vocab as u64 * config.embedding_width as u64 * 4;
        let blocks = activations + sizes.block + bench;
        let allocation = allocation(job, sizes.block + bench);
        let peak = PROGRAM + blocks.max(embedding + activations) + allocation;
        let source = job.checkpoint.tensors().tensors().values().map(|info| info.bytes).sum();
        let result = plans.stored_bytes(job.checkpoint, job.recipe);
        let (block, program, disk) = (sizes.block, PROGRAM, result * 2);
        Ok(Self { activations, block, bench, embedding, allocation, program, peak, source, result, disk })
    }
}

/// Writing a model again: its largest part as it is stored and as it is written, at most at 32 bits, and copies of
/// its largest matrix.
pub(super) fn rewriting(checkpoint: &Checkpoint) -> memory::Plan<'static> {
    let (config, sizes) = (checkpoint.config(), Sizes::of(checkpoint));
    let block: u64 = Role::ALL.iter().map(|role| role.shape(config)).map(|(m, n)| m as u64 * n as u64).sum();
    let written = 4 * block.max(config.vocab as u64 * config.embedding_width as u64);
    let bytes = PROGRAM + sizes.block.max(sizes.embedding) + written + 3 * 4 * sizes.largest;
    memory::Plan { what: "writing this model again", bytes, smaller: "use a machine with more memory" }
}

/// The pass over the dense model: its windows, one block on the bench, and for each model on trial a held-out
/// stream and a block at 16 bits, besides the two models that logits are compared of.
fn allocation(job: &Job<'_>, block: u64) -> u64 {
    let (config, allocation) = (job.checkpoint.config(), &job.recipe.allocation);
    let Some(calibration) = job.calibration.as_ref().filter(|_| allocation.over != Over::Uniform) else {
        return 0;
    };
    let tokens = calibration.windows.first(allocation.trial).tokens().len() as u64;
    let held = calibration.held_out.as_ref().map_or(0, |windows| judged(windows).tokens().len() as u64);
    let all = job.checkpoint.tensors().tensors();
    let stored: u64 = all.values().map(|info| info.bytes).sum();
    let weights: u64 = all.values().map(|info| info.shape.iter().product::<usize>() as u64).sum();
    let on_trial = weights / config.layers.len().max(1) as u64 * 2;
    let (models, decoder) = match allocation.over {
        Over::Slope => (allocation.candidates.len() as u64, 0),
        Over::Measured => (2, stored),
        Over::Owl | Over::Uniform => (0, 0),
    };
    let streams = Walk::bytes(config, tokens) + (models + 1) * Walk::bytes(config, held) + models * on_trial;
    streams + block + decoder + 2 * LOGIT_ROWS as u64 * config.vocab as u64 * 4
}

/// Gram matrix (f64), its damped copy and factor (f32, f64 while factoring), and the f32 copies
/// of the widest linear: weights, residual, residual times H, strips.
fn bench(config: &crate::model::Config) -> u64 {
    let k = config.hidden.max(config.intermediate).max(config.heads * config.head_dim) as u64;
    let weights = (config.hidden * config.intermediate.max(config.heads * config.head_dim)) as u64;
    k * k * (8 + 4 + 2 + 3 * 8) + weights * 4 * 5
}

/// What each thread holds while it refits a strip: the Gram matrix of what is kept, its factor, and what factoring
/// takes, in f64.
fn refits(config: &crate::model::Config, threads: usize) -> u64 {
    let k = config.intermediate.max(config.heads * config.head_dim) as u64;
    threads as u64 * k * k * 3 * 8
}
