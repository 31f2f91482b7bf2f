//! Local reconstruction: block by block, the kept weights learn to give the dense block's output, each block on
//! what the mended ones before it hand on. One block of either model is in memory, and no head. Prints nothing.
//!
//! EBFT: Guo 2024, arXiv 2402.12419. Targets are those of the dense model on its own stream, so that a block also
//! makes up for what the blocks before it have lost.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use super::block::Trainee;
use super::estimate::local;
use super::feature::RowLosses;
use super::gradient::{Dropout, Pass};
use super::parameters::Parameters;
use super::plan::BlockPlan;
use super::save::{changed_block, replaced, unchanged};
use super::settings::Optimiser;
use super::student::{Arithmetic, refresh_block};
use super::trainable::{Spec, prepare_block};
use crate::artifact::{Existing, Part, Resume, Stored, Vector, finish_interrupted};
use crate::calibrate::{Windows, below};
use crate::error::{Error, Kind, Result};
use crate::job::rewrite::{Notes, Rewrite};
use crate::load::Checkpoint;
use crate::memory::{self, Plan};
use crate::model::architecture::NormStorage;
use crate::model::block::{NormRole, Role};
use crate::model::decoder::Stem;
use crate::model::rotation::Rotation;
use crate::model::{Block, Config};
use crate::ops::Buffer;

/// Tokens that go through a block together.
const TOGETHER: usize = 2048;

/// How every block learns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalSettings {
    /// What is trained of a block.
    pub spec: Spec,
    /// How it steps; the rate falls within each block.
    pub optimiser: Optimiser,
    /// Passes of each block over the text.
    pub epochs: usize,
    /// Order of the batches.
    pub seed: u64,
}

/// Steps that a block takes in `epochs` passes over these windows.
pub fn steps(epochs: usize, windows: &Windows) -> usize {
    epochs * windows.count().div_ceil(together(windows))
}

/// Windows that go through a block together.
fn together(windows: &Windows) -> usize {
    (TOGETHER / windows.length()).clamp(1, windows.count().max(1))
}

/// A run.
#[derive(Debug)]
pub struct Reconstruction<'a> {
    /// The model to mend.
    pub checkpoint: &'a Checkpoint,
    /// The dense model.
    pub teacher: &'a Checkpoint,
    /// Arithmetic.
    pub how: Arithmetic<'a>,
    /// How blocks learn.
    pub settings: &'a LocalSettings,
    /// What they learn on.
    pub windows: &'a Windows,
    /// What to do with unfinished and finished work in the output folder.
    pub policy: (Resume, Existing),
}

/// What became of one block: the mean over tokens of the squared difference from the dense output, over its square.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockReport {
    /// Its index.
    pub index: usize,
    /// Before it was trained, on the mended stream; none where an earlier run has trained it.
    pub before: Option<f64>,
    /// Afterwards, as it is stored.
    pub after: f64,
}

/// Sees every finished block; `Break` ends the run with all of them kept.
pub type Watch<'f> = dyn FnMut(BlockReport, usize) -> ControlFlow<()> + 'f;

impl Reconstruction<'_> {
    /// Refuses what has no meaning.
    pub fn check(&self) -> Result<()> {
        let shape = |c: &Checkpoint| (c.config().layers.len(), c.config().hidden, c.config().vocab);
        if shape(self.teacher) != shape(self.checkpoint) {
            return Err(Error::usage("the teacher has another shape than the model")
                .next("use the dense model that this one was made from"));
        }
        self.checkpoint.check_carried()?;
        self.settings.optimiser.check()
    }

    /// Memory that the run will take.
    pub fn plan(&self) -> Plan<'static> {
        let (models, tokens) = ((self.checkpoint, self.teacher), self.windows.tokens().len());
        let bytes = local(models, tokens, self.together() * self.windows.length());
        Plan {
            what: "mending block by block",
            bytes,
            smaller: "use fewer --sequences, or a smaller --length",
        }
    }

    /// Carries out the run and writes the mended model; reports nothing where an earlier run was killed after all but
    /// the end of it. Errors: [`Kind::Stopped`]; [`Kind::NonFinite`] where a
    /// block's loss ceases to be finite.
    pub fn carry_out(&self, output: &Path, notes: Notes, watch: &mut Watch<'_>) -> Result<Vec<BlockReport>> {
        self.check()?;
        self.plan().check()?;
        let config = self.checkpoint.config();
        if finish_interrupted(output, &notes.identity(self.checkpoint)?, self.policy)?.is_some() {
            return Ok(Vec::new());
        }
        let mut rewrite = Rewrite::open(self.checkpoint, output, notes, self.policy)?;
        for part in [Part::Embedding, Part::Head] {
            if !rewrite.has(part) {
                rewrite.put(part, &|_, stored| unchanged(stored))?;
            }
        }
        let rotations = self.rotations();
        let mut mended = self.embed(self.checkpoint)?;
        let mut dense = self.embed(self.teacher)?;
        let mut reports = Vec::new();
        let total = config.layers.len();
        for index in 0..total {
            let teacher = Block::load(self.teacher, index)?;
            self.through((&teacher, index), &rotations, &mut dense);
            drop(teacher);
            let mut block = Block::load(self.checkpoint, index)?;
            let part = Part::Block(index);
            let mut before = None;
            if !rewrite.has(part) {
                before = Some(self.difference((&block, index), &rotations, (&mended, &dense)));
                let (plan, parameters) = self.mend((&mut block, index), &rotations, (&mended, &dense))?;
                let changed = changed_block(config, self.how.ops, ((&plan, &parameters), index));
                rewrite.put(part, &|name, stored| replaced(&changed, name, stored))?;
            }
            restore(&mut block, config, index, rewrite.read(part)?);
            let after = self.advance((&block, index), &rotations, (&mut mended, &dense));
            let report = BlockReport { index, before, after };
            reports.push(report);
            if watch(report, total).is_break() && index + 1 < total {
                return Err(Error::new(Kind::Stopped, format!("stopped after block {index}"))
                    .file(output)
                    .next("give the same command again to go on"));
            }
        }
        rewrite.finish()?;
        Ok(reports)
    }

    /// Angles of as many windows as go through a block together.
    fn rotations(&self) -> Vec<Rotation> {
        let length = self.windows.length();
        let positions: Vec<usize> = (0..self.together() * length).map(|i| i % length).collect();
        Rotation::all(self.checkpoint.config(), &positions)
    }

    fn together(&self) -> usize {
        together(self.windows)
    }

    fn embed(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>> {
        let stem = Stem::load(checkpoint)?;
        let positions: Vec<usize> = (0..self.windows.length()).collect();
        let mut x = Vec::new();
        memory::reserve(&mut x, self.windows.tokens().len() * checkpoint.config().hidden)?;
        for window in self.windows.tokens().chunks_exact(self.windows.length()) {
            x.extend(stem.embed(self.how.ops, checkpoint.config(), window, &positions)?);
        }
        Ok(x)
    }

    /// Calls `f` with a pass over `rows` rows.
    fn with_pass<R>(&self, rows: usize, rotations: &[Rotation], f: impl FnOnce(Pass<'_>) -> R) -> R {
        let all = self.together() * self.windows.length();
        let shorter: Vec<Rotation>;
        let rotations = if rows == all {
            rotations
        } else {
            shorter = rotations.iter().map(|r| r.pick(0..rows, all)).collect();
            &shorter
        };
        let config = self.checkpoint.config();
        let dropout = Dropout::default();
        let (length, cache) = (self.windows.length(), self.how.cache);
        let (ops, buffers) = (self.how.ops, &self.how.ops.buffers());
        f(Pass { ops, config, rotations, length, cache, buffers, dropout })
    }

    /// Values of the stream in a batch.
    fn batch(&self) -> usize {
        self.together() * self.windows.length() * self.checkpoint.config().hidden
    }

    fn forward(&self, (block, index): (&Block, usize), rotations: &[Rotation], x: &[f32]) -> Buffer {
        let rows = x.len() / self.checkpoint.config().hidden;
        self.with_pass(rows, rotations, |pass| {
            Trainee { block, plan: &BlockPlan::FROZEN, index }.forward(pass, pass.buffers.copy(x)).1
        })
    }

    /// Moves a stream through a block.
    fn through(&self, at: (&Block, usize), rotations: &[Rotation], stream: &mut [f32]) {
        for x in stream.chunks_mut(self.batch()) {
            let out = self.forward(at, rotations, x);
            x.copy_from_slice(&out);
        }
    }

    /// Mean of the rows' losses of a block's output.
    fn difference(&self, at: (&Block, usize), rotations: &[Rotation], (x, y): (&[f32], &[f32])) -> f64 {
        let batches = x.chunks(self.batch()).zip(y.chunks(self.batch()));
        self.mean(batches.map(|(x, y)| self.losses((&self.forward(at, rotations, x), y)).sum()))
    }

    /// The same, and moves the stream through the block.
    fn advance(&self, at: (&Block, usize), rotations: &[Rotation], (x, y): (&mut [f32], &[f32])) -> f64 {
        let batches = x.chunks_mut(self.batch()).zip(y.chunks(self.batch()));
        self.mean(batches.map(|(x, y)| {
            x.copy_from_slice(&self.forward(at, rotations, x));
            self.losses((x, y)).sum()
        }))
    }

    fn mean(&self, sums: impl Iterator<Item = f64>) -> f64 {
        sums.sum::<f64>() / self.windows.tokens().len() as f64
    }

    fn losses<'a>(&self, pair: (&'a [f32], &'a [f32])) -> RowLosses<'a> {
        RowLosses::new(self.how.ops, pair, self.checkpoint.config().hidden)
    }

    /// Trains one block; gives what was trained of it.
    fn mend(
        &self,
        (block, index): (&mut Block, usize),
        rotations: &[Rotation],
        (x, y): (&[f32], &[f32]),
    ) -> Result<(BlockPlan, Parameters)> {
        let config = self.checkpoint.config();
        let (plan, mut parameters) = prepare_block(config, &self.settings.spec, (block, index))?;
        refresh_block(self.how, (block, &plan), &parameters)?;
        let (batches, steps) = (x.len().div_ceil(self.batch()), steps(self.settings.epochs, self.windows));
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.seed);
        random.set_stream(index as u64);
        let mut order: Vec<usize> = Vec::new();
        for step in 1..=steps {
            if order.is_empty() {
                order = (0..batches).collect();
            }
            let at = order.swap_remove(below(&mut random, order.len())) * self.batch();
            let range = at..(at + self.batch()).min(x.len());
            parameters.clear_grads();
            let trainee = Trainee { block, plan: &plan, index };
            self.learn(trainee, rotations, (&x[range.clone()], &y[range]), &mut parameters);
            let optimiser = self.settings.optimiser;
            let norm = parameters.grad_norm(self.how.ops);
            if !norm.is_finite() {
                let problem = format!("gradients of block {index} are not finite at step {step}");
                return Err(Error::new(Kind::NonFinite, problem).next("choose a smaller --lr"));
            }
            parameters.step(self.how.ops, &optimiser.adam((step, optimiser.rate(step, steps)), norm));
            refresh_block(self.how, (block, &plan), &parameters)?;
        }
        Ok((plan, parameters))
    }

    /// Gradients of the mean of the rows' losses.
    fn learn(
        &self,
        trainee: Trainee<'_>,
        rotations: &[Rotation],
        (x, y): (&[f32], &[f32]),
        to: &mut Parameters,
    ) {
        let rows = x.len() / self.checkpoint.config().hidden;
        self.with_pass(rows, rotations, |pass| {
            let (tape, out) = trainee.forward(pass, pass.buffers.copy(x));
            let mut dx = pass.buffers.zeros(out.len());
            self.losses((&out, y)).pull(self.how.ops, 1.0 / rows as f32, &mut dx);
            trainee.backward(pass, tape, to, dx);
        });
    }
}

/// Puts what was stored in place of what was trained.
fn restore(block: &mut Block, config: &Config, index: usize, stored: Vec<(String, Stored)>) {
    let offset = if config.architecture.family().norms == NormStorage::MinusOne { 1.0 } else { 0.0 };
    let mut stored: BTreeMap<String, Stored> = stored.into_iter().collect();
    let vector = |stored: &mut BTreeMap<String, Stored>, name: &str| match stored.remove(name) {
        Some(Stored::Vector(Vector::F32(values))) => Some(values),
        _ => None,
    };
    for role in NormRole::ALL {
        let Some(norm) = block.norm_mut(role) else { continue };
        let name = role.name(config, index);
        if let Some(scale) = vector(&mut stored, &format!("{name}.weight")) {
            norm.scale = scale.iter().map(|w| w + offset).collect();
        }
        norm.bias = vector(&mut stored, &format!("{name}.bias")).or(norm.bias.take());
    }
    for role in Role::ALL {
        let Some(linear) = block.linear_mut(role) else { continue };
        let name = role.name(config, index);
        linear.bias = vector(&mut stored, &format!("{name}.bias")).or(linear.bias.take());
        if let Some(Stored::Matrix(weight)) = stored.remove(&format!("{name}.weight")) {
            linear.weight = weight;
        }
    }
}
