//! The walk through the model, one block at a time. All calibration windows stand at
//! the same block; the walk shows each group of linears what it will see, lets the
//! caller replace them, and moves on with the *replaced* weights. So every linear sees
//! the output of already compressed predecessors (true-sequential calibration), and
//! still each linear runs exactly once.
//!
//! What a value layer sees is weighed by the attention that each token receives
//! (Sung 2025, arXiv 2503.01820, does so for all layers; for keys it gained nothing here).
//!
//! Memory: the residual stream in f32 (`tokens * hidden * 4` bytes) and the input of the
//! linears at hand in bf16 (`tokens * max(intermediate, heads * head_dim) * 2`). The
//! products of a calibration run round their inputs to bf16 anyway, so keeping them
//! in bf16 between two stages changes nothing.

use half::bf16;

use super::Windows;
use crate::compress::Gram;
use crate::error::{Error, Result};
use crate::memory;
use crate::model::block::{Block, Pass, Role, Span};
use crate::model::config::Config;
use crate::model::decoder::Stem;
use crate::model::rotation::Rotation;
use crate::ops::{CacheType, KvLayer, Ops};
use crate::units::Alpha;
use crate::workers::{Alone, Workers};

/// Rows that go through a stage at once: enough for the matrix product, and few enough that a
/// stage's buffers stay in the last cache level and are recycled by the allocator (below 32 MiB).
const ROWS: usize = 2048;

/// One query in so many is asked what it attends to: enough to find the tokens that everybody
/// reads. With the second Gram matrix it costs 8 % of a run.
const ASKED: usize = 8;

/// All calibration windows, standing before some block.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    frame: Frame<'a>,
    x: Vec<f32>,      // [windows * length, hidden]
    carry: Vec<bf16>, // [windows * length, width of the stage at hand]
}

/// What is the same for every batch of windows.
#[derive(Debug, Clone)]
struct Frame<'a> {
    ops: &'a dyn Ops,
    config: &'a Config,
    alpha: Alpha,
    length: usize,
    together: usize,          // windows a batch
    rotations: Vec<Rotation>, // of one batch
    workers: &'a dyn Workers, // what is seen is summed over all of them
}

/// Called with the roles that share an input, what they see, and the block in which to replace them.
pub type Replace<'f> = dyn FnMut(&[Role], Gram, &mut Block) -> Result<()> + 'f;

impl Frame<'_> {
    /// The pass over a batch of `rows` rows; the last batch may be short.
    fn with_pass<R>(&self, rows: usize, f: impl FnOnce(Pass<'_>, &mut [Span<'_>]) -> R) -> R {
        let windows = rows / self.length;
        let (kv_heads, head_dim) = (self.config.kv_heads, self.config.head_dim);
        let mut caches: Vec<KvLayer> =
            (0..windows).map(|_| KvLayer::new(kv_heads, head_dim, self.length, CacheType::F32)).collect();
        let mut spans: Vec<Span<'_>> =
            caches.iter_mut().map(|cache| Span { rows: self.length, cache }).collect();
        let shorter: Vec<Rotation>;
        let rotations = if windows == self.together {
            &self.rotations
        } else {
            shorter = self.rotations.iter().map(|r| r.pick(0..rows, self.together * self.length)).collect();
            &shorter
        };
        f(Pass { ops: self.ops, config: self.config, rotations, alpha: self.alpha }, &mut spans)
    }
}

/// Sum of `x x^T` over the inputs of one group of linears.
struct Sum {
    size: usize,
    tokens: u64,
    sum: Vec<f64>,
}

impl Sum {
    fn new(size: usize) -> Result<Self> {
        Ok(Self { size, tokens: 0, sum: memory::zeros(size * size)? })
    }
    fn add(&mut self, ops: &dyn Ops, x: &[f32]) {
        self.tokens += (x.len() / self.size) as u64;
        ops.gram(x, &mut self.sum);
    }
    fn finish(mut self, workers: &dyn Workers) -> Result<Gram> {
        let mut tokens = [self.tokens as f64];
        workers.sum_f64(&mut tokens);
        workers.sum_f64(&mut self.sum);
        Gram::new(self.size, tokens[0] as u64, self.sum)
    }
}

impl<'a> Walk<'a> {
    /// Embeds all windows. `alpha` is the ortho share with which finished blocks are replayed.
    pub fn start(
        ops: &'a dyn Ops,
        config: &'a Config,
        stem: &Stem,
        windows: &Windows,
        alpha: Alpha,
    ) -> Result<Self> {
        Self::check_length(config, windows)?;
        let length = windows.length();
        let together = (ROWS / length).clamp(1, windows.count());
        let positions: Vec<usize> = (0..together).flat_map(|_| 0..length).collect();
        let mut x = Vec::new();
        memory::reserve(&mut x, windows.tokens().len() * config.hidden)?;
        for window in windows.tokens().chunks_exact(length) {
            x.extend(stem.embed(ops, config, window, &positions[..length])?);
        }
        let rotations = Rotation::all(config, &positions);
        let frame = Frame { ops, config, alpha, length, together, rotations, workers: &Alone };
        Ok(Self { frame, x, carry: Vec::new() })
    }

    /// Errors: windows that exceed the model's context.
    pub fn check_length(config: &Config, windows: &Windows) -> Result<()> {
        let (length, context) = (windows.length(), config.context);
        if length <= context {
            return Ok(());
        }
        let problem = format!("windows of {length} tokens exceed the model's context of {context}");
        Err(Error::usage(problem).next(format!("pass --length {context} or less")))
    }

    /// The same, but other workers walk with windows of their own: linears see the sum of all.
    #[must_use]
    pub fn among(mut self, workers: &'a dyn Workers) -> Self {
        self.frame.workers = workers;
        self
    }

    /// The residual stream where the windows stand, `[windows * length, hidden]`.
    pub fn stream(&self) -> &[f32] {
        &self.x
    }

    /// Bytes that a walk over `tokens` tokens keeps, and those of one batch in flight.
    pub fn bytes(config: &Config, tokens: u64) -> u64 {
        let attention = config.heads * config.head_dim;
        let kept = config.hidden * 4 + config.intermediate.max(attention) * 2;
        tokens * kept as u64 + (ROWS as u64).min(tokens) * 4 * config.widest()
    }

    /// Goes through a block, replacing its linears group by group.
    pub fn compress(&mut self, block: &mut Block, replace: &mut Replace<'_>) -> Result<()> {
        let (config, workers) = (self.frame.config, self.frame.workers);
        let (mut seen, mut values) = (Sum::new(config.hidden)?, Sum::new(config.hidden)?);
        self.show_attention_input(block, &mut seen, &mut values);
        replace(&[Role::Q, Role::K], seen.finish(workers)?, block)?;
        replace(&[Role::V], values.finish(workers)?, block)?;

        let mut seen = Sum::new(config.heads * config.head_dim)?;
        self.mix_attention(block, Some(&mut seen));
        replace(&[Role::O], seen.finish(workers)?, block)?;

        let mut seen = Sum::new(config.hidden)?;
        self.finish_attention(block, Some(&mut seen));
        let inputs: &[Role] = if config.activation.gated() { &[Role::Gate, Role::Up] } else { &[Role::Up] };
        replace(inputs, seen.finish(workers)?, block)?;

        let mut seen = Sum::new(config.intermediate)?;
        self.mix_mlp(block, Some(&mut seen));
        replace(&[Role::Down], seen.finish(workers)?, block)?;

        self.finish_mlp(block);
        Ok(())
    }

    /// Goes through a block that stays as it is; the same bits as [`Walk::compress`] leaves behind
    /// for a block with these weights.
    pub fn pass_through(&mut self, block: &Block) {
        self.mix_attention(block, None);
        self.finish_attention(block, None);
        self.mix_mlp(block, None);
        self.finish_mlp(block);
    }

    /// `values` sees the same inputs, each as often as the attention reads its value. An error `D`
    /// of the value layer reaches query `q` as `sum_t A_qt D x_t`; `A_q` sums to one, so by
    /// convexity `sum_q |sum_t A_qt D x_t|^2 <= sum_t a_t |D x_t|^2` with `a_t = sum_q A_qt`.
    /// The first token of a window may hold half of all attention: unweighted, it would count
    /// as one of two thousand.
    fn show_attention_input(&self, block: &Block, seen: &mut Sum, values: &mut Sum) {
        let hidden = self.frame.config.hidden;
        for x in self.x.chunks(self.batch(hidden)) {
            self.frame.with_pass(x.len() / hidden, |pass, spans| {
                let mut h = block.attention_input(pass, x);
                seen.add(pass.ops, &h);
                let received = block.attention_received(pass, &h, spans, ASKED);
                for (h, share) in h.chunks_exact_mut(hidden).zip(received) {
                    let root = share.sqrt();
                    h.iter_mut().for_each(|h| *h *= root);
                }
                values.add(pass.ops, &h);
            });
        }
    }

    fn mix_attention(&mut self, block: &Block, seen: Option<&mut Sum>) {
        self.mix(seen, |pass, x, spans| block.attention_mix(pass, &block.attention_input(pass, x), spans));
    }

    fn finish_attention(&mut self, block: &Block, mut seen: Option<&mut Sum>) {
        self.finish(|pass, mixed, x| {
            block.attention_output(pass, mixed, x);
            if let Some(seen) = &mut seen {
                seen.add(pass.ops, &block.mlp_input(pass, x));
            }
        });
    }

    fn mix_mlp(&mut self, block: &Block, seen: Option<&mut Sum>) {
        self.mix(seen, |pass, x, _| block.mlp_mix(pass, &block.mlp_input(pass, x)));
    }

    fn finish_mlp(&mut self, block: &Block) {
        self.finish(|pass, mixed, x| block.mlp_output(pass, mixed, x));
    }

    /// Fills the carry with what `stage` makes of the residual stream.
    fn mix(
        &mut self,
        mut seen: Option<&mut Sum>,
        stage: impl Fn(Pass<'_>, &[f32], &mut [Span<'_>]) -> Vec<f32>,
    ) {
        let hidden = self.frame.config.hidden;
        self.carry.clear();
        for x in self.x.chunks(self.batch(hidden)) {
            let mixed = self.frame.with_pass(x.len() / hidden, |pass, spans| stage(pass, x, spans));
            keep(&mut self.carry, (self.x.len(), x.len()), &mixed);
            if let Some(seen) = &mut seen {
                seen.add(self.frame.ops, &mixed);
            }
        }
    }

    /// Lets `stage` bring the carry into the residual stream.
    fn finish(&mut self, mut stage: impl FnMut(Pass<'_>, &[f32], &mut [f32])) {
        let hidden = self.frame.config.hidden;
        let (batch, mixed) = (self.batch(hidden), self.batch(self.carry.len() / (self.x.len() / hidden)));
        for (x, mixed) in self.x.chunks_mut(batch).zip(self.carry.chunks(mixed)) {
            self.frame.with_pass(x.len() / hidden, |pass, _| stage(pass, &widen(mixed), x));
        }
    }

    /// Values in a batch of rows of this width.
    fn batch(&self, width: usize) -> usize {
        self.frame.together * self.frame.length * width
    }
}

/// Appends a batch to the carry; `share` (all, this batch) lets the first one reserve room for all.
fn keep(carry: &mut Vec<bf16>, share: (usize, usize), rows: &[f32]) {
    if carry.is_empty() {
        carry.reserve_exact(rows.len() * share.0 / share.1);
    }
    carry.extend(rows.iter().map(|v| bf16::from_f32(*v)));
}

fn widen(rows: &[bf16]) -> Vec<f32> {
    rows.iter().map(|v| v.to_f32()).collect()
}
