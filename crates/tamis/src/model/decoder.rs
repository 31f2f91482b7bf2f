//! The decoder: stem (embedding, positions), blocks, crown (final norm, head).
//! The parts can be loaded one at a time, which is how compression keeps one block
//! in memory. Knows no files and no text.

use std::sync::{Arc, OnceLock};

use super::block::{Block, Pass, Span};
use super::config::{Config, NormPlacement, Positions};
use super::rotation::Rotation;
use super::{Linear, NormWeights, Weight};
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::memory;
use crate::ops::{CacheType, KvLayer, Ops};
use crate::units::Alpha;

/// A whole model in memory.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: Config,
    stem: Stem,
    blocks: Vec<Block>,
    crown: Crown,
}

/// Tokens to the first residual stream.
#[derive(Debug, Clone)]
pub struct Stem {
    embedding: Arc<Linear>,
    positions: Option<Weight>,
    project_in: Option<Linear>,
}

/// The last residual stream to logits.
#[derive(Debug, Clone)]
pub struct Crown {
    final_norm: Option<NormWeights>,
    project_out: Option<Linear>,
    head: Arc<Linear>,
}

/// Keys and values of one sequence, all layers.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<KvLayer>,
}

/// New tokens of one sequence, and the cache that they extend.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// Tokens to append.
    pub tokens: &'a [u32],
    /// Keys and values of the tokens before them.
    pub cache: &'a mut KvCache,
}

impl KvCache {
    /// An empty cache that can hold `capacity` positions, in numbers of that type.
    pub fn new(config: &Config, capacity: usize, kind: CacheType) -> Self {
        let layer = || KvLayer::new(config.kv_heads, config.head_dim, capacity, kind);
        Self { layers: config.layers.iter().map(|_| layer()).collect() }
    }
    /// Makes room for `len` positions. Errors: [`Kind::Memory`](crate::Kind::Memory).
    pub fn reserve(&mut self, len: usize) -> Result<()> {
        let reserve = |layer: &mut KvLayer| layer.reserve(len).map_err(memory::none);
        self.layers
            .iter_mut()
            .try_for_each(reserve)
            .map_err(|e| e.next("use a shorter text, or --cache int8"))
    }
    /// Bytes that attention reads in one layer for one position.
    pub fn position_bytes(&self) -> usize {
        self.layers.first().map_or(0, KvLayer::position_bytes)
    }
    /// Positions held.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvLayer::len)
    }
    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|layer| layer.truncate(len));
    }
}

impl Stem {
    /// Reads embedding, positions and input projection.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let names = config.architecture.family().names;
        let embedding = checkpoint.linear(names.embedding, config.vocab, config.embedding_width)?;
        let positions = match (&config.positions, names.positions) {
            (Positions::Learned { offset }, Some(name)) => {
                Some(checkpoint.matrix(name, config.context + offset, config.hidden)?)
            }
            _ => None,
        };
        let project_in = (config.embedding_width != config.hidden)
            .then(|| {
                checkpoint.linear(names.project_in.unwrap_or_default(), config.hidden, config.embedding_width)
            })
            .transpose()?;
        Ok(Self { embedding: Arc::new(embedding), positions, project_in })
    }

    /// An embedding that is also the head is multiplied with.
    fn prepare_embedding(&mut self, ops: &dyn Ops) {
        Arc::make_mut(&mut self.embedding).prepare(ops);
    }

    /// Puts a matrix of the stem in place of the one that was read under the same name.
    pub fn replace(&mut self, config: &Config, tensor: &str, weight: Weight) {
        let names = config.architecture.family().names;
        let is = |name: Option<&str>| name.is_some_and(|name| tensor.strip_suffix(".weight") == Some(name));
        if is(Some(names.embedding)) {
            self.embedding = Arc::new(Linear::new(weight, self.embedding.bias.clone()));
        } else if is(names.positions) {
            self.positions = Some(weight);
        } else if let (true, Some(project)) = (is(names.project_in), &mut self.project_in) {
            project.weight = weight;
        }
    }

    /// The embedding, `[vocab, embedding width]`.
    pub fn embedding(&self) -> &Linear {
        &self.embedding
    }
    /// Learned positions, `[context + offset, hidden]`, where the model has them.
    pub fn positions(&self) -> Option<&Weight> {
        self.positions.as_ref()
    }
    /// Projection of the embedding to the residual stream, where their widths differ.
    pub fn project_in(&self) -> Option<&Linear> {
        self.project_in.as_ref()
    }

    /// Rows of the embedding for `tokens` standing at `positions`: `[m, hidden]`.
    pub fn embed(
        &self,
        ops: &dyn Ops,
        config: &Config,
        tokens: &[u32],
        positions: &[usize],
    ) -> Result<Vec<f32>> {
        let width = config.embedding_width;
        let mut x = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            if token as usize >= config.vocab {
                return Err(Error::bad_data(format!(
                    "token {token} is not in a vocabulary of {}",
                    config.vocab
                ))
                .next("the tokenizer is not that of the model: fetch both again"));
            }
            self.embedding.weight.with_rows(Alpha::ZERO, |w| w.decode_row(token as usize, row));
            row.iter_mut().for_each(|v| *v *= config.embedding_scale);
        }
        if let Some(project) = &self.project_in {
            let mut y = vec![0.0; tokens.len() * config.hidden];
            ops.linear(&x, project, Alpha::ZERO, &mut y);
            x = y;
        }
        if let (Some(table), Positions::Learned { offset }) = (&self.positions, &config.positions) {
            let mut learned = vec![0.0; config.hidden];
            for (&position, row) in positions.iter().zip(x.chunks_exact_mut(config.hidden)) {
                table.with_rows(Alpha::ZERO, |w| w.decode_row(position + offset, &mut learned));
                ops.add(row, &learned);
            }
        }
        Ok(x)
    }
}

impl Crown {
    /// Reads final norm, output projection and head; a tied head shares the stem's embedding.
    pub fn load(checkpoint: &Checkpoint, stem: &Stem) -> Result<Self> {
        let config = checkpoint.config();
        let names = config.architecture.family().names;
        let normed = config.placement != NormPlacement::After;
        let final_norm =
            normed.then(|| checkpoint.norm(names.final_norm, config.hidden, config.norm)).transpose()?;
        let project_out = (config.embedding_width != config.hidden)
            .then(|| {
                checkpoint.linear(
                    names.project_out.unwrap_or_default(),
                    config.embedding_width,
                    config.hidden,
                )
            })
            .transpose()?;
        let head = if config.tied {
            Arc::clone(&stem.embedding)
        } else {
            Arc::new(checkpoint.linear(names.head, config.vocab, config.embedding_width)?)
        };
        Ok(Self { final_norm, project_out, head })
    }

    fn prepare_head(&mut self, ops: &dyn Ops) {
        Arc::make_mut(&mut self.head).prepare(ops);
    }

    /// The head, `[vocab, embedding width]`; a tied one is the embedding.
    pub fn head(&self) -> &Linear {
        &self.head
    }
    /// Projection of the residual stream to the head's width, where they differ.
    pub fn project_out(&self) -> Option<&Linear> {
        self.project_out.as_ref()
    }
    /// The norm before the head, where the model has one.
    pub fn final_norm(&self) -> Option<&NormWeights> {
        self.final_norm.as_ref()
    }

    /// Sets `logits` to the `[m, vocab]` logits of the last residual stream `x [m, hidden]`.
    pub fn logits(&self, pass: Pass<'_>, x: &[f32], logits: &mut Vec<f32>) {
        let rows = x.len() / pass.config.hidden;
        let mut h = x.to_vec();
        if let Some(norm) = &self.final_norm {
            pass.ops.norm(x, pass.config.norm, norm, &mut h);
        }
        if let Some(project) = &self.project_out {
            let mut y = vec![0.0; rows * pass.config.embedding_width];
            pass.ops.linear(&h, project, pass.alpha, &mut y);
            h = y;
        }
        logits.resize(rows * pass.config.vocab, 0.0);
        pass.ops.linear(&h, &self.head, pass.alpha, logits);
        if let Some(cap) = pass.config.logit_softcap {
            logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
    }
}

impl Decoder {
    /// Reads the whole model, in the form that `ops` multiplies fastest: a layer a thread at a time,
    /// so that no second copy of the weights is held.
    pub fn load(checkpoint: &Checkpoint, ops: &dyn Ops) -> Result<Self> {
        let mut stem = Stem::load(checkpoint)?;
        if checkpoint.config().tied {
            stem.prepare_embedding(ops);
        }
        let mut crown = Crown::load(checkpoint, &stem)?;
        if !checkpoint.config().tied {
            crown.prepare_head(ops);
        }
        let blocks: Vec<_> = checkpoint.config().layers.iter().map(|_| OnceLock::new()).collect();
        ops.each(blocks.len(), &|index| {
            let block = Block::load(checkpoint, index).map(|mut block| {
                block.prepare(ops);
                block
            });
            blocks[index].set(block).expect("every index comes once");
        });
        let all = blocks.into_iter().map(|block| block.into_inner().expect("every index comes"));
        let blocks = all.collect::<Result<_>>()?;
        Ok(Self { config: checkpoint.config().clone(), stem, blocks, crown })
    }

    /// Shape and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tokens to the first residual stream.
    pub fn stem(&self) -> &Stem {
        &self.stem
    }
    /// The blocks, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    /// The blocks, to be changed.
    pub fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }
    /// The last residual stream to logits.
    pub fn crown(&self) -> &Crown {
        &self.crown
    }
    /// The norm before the head, to be changed.
    pub fn final_norm_mut(&mut self) -> Option<&mut NormWeights> {
        self.crown.final_norm.as_mut()
    }
    /// Puts another matrix in place of the embedding, and of the head if they are one.
    pub fn set_embedding(&mut self, weight: Weight) {
        let embedding = Arc::new(Linear::new(weight, self.stem.embedding.bias.clone()));
        if self.config.tied {
            self.crown.head = Arc::clone(&embedding);
        }
        self.stem.embedding = embedding;
    }
    /// Puts another matrix in place of a head of its own.
    pub fn set_head(&mut self, weight: Weight) {
        self.crown.head = Arc::new(Linear::new(weight, self.crown.head.bias.clone()));
    }

    /// Allows sequences of `context` tokens, where that is more than the model was made for. What
    /// it says beyond its own context means nothing; what it costs does.
    ///
    /// Errors: learned positions, which end where their table ends ([`Kind::Usage`](crate::Kind::Usage)).
    pub fn extend_context(&mut self, context: usize) -> Result<()> {
        let own = self.config.context;
        if context > own && self.stem.positions.is_some() {
            let problem = format!("{context} tokens exceed the {own} positions that the model has learned");
            return Err(Error::usage(problem).next(format!("use at most {own} tokens in all")));
        }
        self.config.context = own.max(context);
        Ok(())
    }

    /// Residual stream `[m, hidden]` after the last block for the new tokens of all sequences,
    /// in order. Extends the caches. Rows do not see other sequences.
    pub fn hidden(&self, ops: &dyn Ops, batch: &mut [Sequence<'_>], alpha: Alpha) -> Result<Vec<f32>> {
        let config = &self.config;
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        for sequence in batch.iter_mut() {
            let (start, new) = (sequence.cache.len(), sequence.tokens.len());
            if start + new > config.context {
                let problem =
                    format!("{} tokens exceed the model's context of {}", start + new, config.context);
                return Err(Error::usage(problem).next("shorten the text"));
            }
            sequence.cache.reserve(start + new)?;
            tokens.extend_from_slice(sequence.tokens);
            positions.extend(start..start + new);
        }
        let rotations = Rotation::all(config, &positions);
        let pass = Pass { ops, config, rotations: &rotations, alpha };
        let mut x = self.stem.embed(ops, config, &tokens, &positions)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let mut spans: Vec<Span<'_>> = batch
                .iter_mut()
                .map(|s| Span { rows: s.tokens.len(), cache: &mut s.cache.layers[index] })
                .collect();
            block.forward(pass, &mut x, &mut spans);
        }
        Ok(x)
    }

    /// Sets `logits` to the `[m, vocab]` logits of residual rows given by [`Decoder::hidden`].
    pub fn logits(&self, ops: &dyn Ops, hidden: &[f32], alpha: Alpha, logits: &mut Vec<f32>) {
        self.crown.logits(Pass { ops, config: &self.config, rotations: &[], alpha }, hidden, logits);
    }
}
