//! One decoder block as six stages. The forward pass runs them in order; calibration
//! stops between them, because the input of `attention_mix`, `attention_output`,
//! `mlp_mix` and `mlp_output` is what their linear layers see.
//!
//! | stage | linears it applies |
//! |---|---|
//! | `attention_input` | |
//! | `attention_mix` | q, k, v |
//! | `attention_output` | o |
//! | `mlp_input` | |
//! | `mlp_mix` | gate, up |
//! | `mlp_output` | down |

use super::config::{Config, NormPlacement};
use super::rotation::{Rotation, pick_rows};
use super::{Layer, Linear, NormWeights};
use crate::error::Result;
use crate::load::Checkpoint;
use crate::ops::{AttentionParams, KvLayer, Ops};
use crate::units::Alpha;

/// The seven linear layers of a block, in the order of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// MLP gate.
    Gate,
    /// MLP up (OPT: fc1).
    Up,
    /// MLP down (OPT: fc2).
    Down,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Name of this linear of block `index`, without `.weight`.
    pub fn name(self, config: &Config, index: usize) -> String {
        let names = config.architecture.family().names;
        let relative = match self {
            Self::Q => names.q,
            Self::K => names.k,
            Self::V => names.v,
            Self::O => names.o,
            Self::Gate => names.gate.unwrap_or_default(),
            Self::Up => names.up,
            Self::Down => names.down,
        };
        format!("{}.{index}.{relative}", names.block)
    }
    /// Whether blocks of this model have this linear.
    pub fn is_in(self, config: &Config) -> bool {
        self != Self::Gate || config.architecture.family().names.gate.is_some()
    }
    /// Outputs and inputs.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let q_width = config.heads * config.head_dim;
        match self {
            Self::Q => (q_width, hidden),
            Self::K | Self::V => (config.kv_heads * config.head_dim, hidden),
            Self::O => (hidden, q_width),
            Self::Gate | Self::Up => (inner, hidden),
            Self::Down => (hidden, inner),
        }
    }
}

/// The norms that a block may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NormRole {
    /// Of attention.
    Attention,
    /// Of queries, head by head.
    Query,
    /// Of keys, head by head.
    Key,
    /// Of what attention adds.
    PostAttention,
    /// Of the MLP.
    Mlp,
    /// Of what the MLP adds.
    PostMlp,
}

impl NormRole {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Attention, Self::Query, Self::Key, Self::PostAttention, Self::Mlp, Self::PostMlp];

    /// Name of this norm of block `index`, without `.weight`.
    pub fn name(self, config: &Config, index: usize) -> String {
        let names = config.architecture.family().names;
        let relative = match self {
            Self::Attention => names.attention_norm,
            Self::Query => names.q_norm,
            Self::Key => names.k_norm,
            Self::PostAttention => names.post_attention_norm.unwrap_or_default(),
            Self::Mlp => names.mlp_norm,
            Self::PostMlp => names.post_mlp_norm.unwrap_or_default(),
        };
        format!("{}.{index}.{relative}", names.block)
    }
    /// Whether blocks of this model have this norm.
    pub fn is_in(self, config: &Config) -> bool {
        let names = config.architecture.family().names;
        let both = config.placement == NormPlacement::Both;
        match self {
            Self::Attention | Self::Mlp => true,
            Self::Query | Self::Key => config.qk_norm,
            Self::PostAttention => both && names.post_attention_norm.is_some(),
            Self::PostMlp => both && names.post_mlp_norm.is_some(),
        }
    }
    /// Features that it goes over.
    pub fn width(self, config: &Config) -> usize {
        match self {
            Self::Query | Self::Key => config.head_dim,
            _ => config.hidden,
        }
    }
}

/// Weights of a block.
#[derive(Debug, Clone)]
pub struct Block {
    layer: Layer,
    attention_norm: NormWeights,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<NormWeights>,
    k_norm: Option<NormWeights>,
    post_attention_norm: Option<NormWeights>,
    mlp_norm: NormWeights,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    post_mlp_norm: Option<NormWeights>,
}

/// What every stage needs besides weights and activations.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Arithmetic.
    pub ops: &'a dyn Ops,
    /// Shape and switches.
    pub config: &'a Config,
    /// Angles of all rows, one entry a rotary table.
    pub rotations: &'a [Rotation],
    /// Share of the ortho stream.
    pub alpha: Alpha,
}

/// Rows of one sequence within a batch, and its cache of this layer. The cache's
/// length before the pass is the position of the first row.
#[derive(Debug)]
pub struct Span<'a> {
    /// Rows of this sequence.
    pub rows: usize,
    /// Keys and values of this layer.
    pub cache: &'a mut KvLayer,
}

const ROOM: &str = "whoever opens a cache gives it room for the whole sequence";

impl Block {
    /// Reads block `index`.
    pub fn load(checkpoint: &Checkpoint, index: usize) -> Result<Self> {
        let config = checkpoint.config();
        let linear = |role: Role| {
            let (out, cols) = role.shape(config);
            checkpoint.linear(&role.name(config, index), out, cols)
        };
        let norm =
            |role: NormRole| checkpoint.norm(&role.name(config, index), role.width(config), config.norm);
        let optional = |role: NormRole| role.is_in(config).then(|| norm(role)).transpose();
        Ok(Self {
            layer: config.layers[index],
            attention_norm: norm(NormRole::Attention)?,
            q: linear(Role::Q)?,
            k: linear(Role::K)?,
            v: linear(Role::V)?,
            o: linear(Role::O)?,
            q_norm: optional(NormRole::Query)?,
            k_norm: optional(NormRole::Key)?,
            post_attention_norm: optional(NormRole::PostAttention)?,
            mlp_norm: norm(NormRole::Mlp)?,
            gate: Role::Gate.is_in(config).then(|| linear(Role::Gate)).transpose()?,
            up: linear(Role::Up)?,
            down: linear(Role::Down)?,
            post_mlp_norm: optional(NormRole::PostMlp)?,
        })
    }

    /// Puts all linear layers into the form that `ops` multiplies fastest.
    pub fn prepare(&mut self, ops: &dyn Ops) {
        for role in Role::ALL {
            if let Some(linear) = self.linear_mut(role) {
                linear.prepare(ops);
            }
        }
    }

    /// The linear layer of a role; a model without a gate has none there.
    pub fn linear(&self, role: Role) -> Option<&Linear> {
        match role {
            Role::Q => Some(&self.q),
            Role::K => Some(&self.k),
            Role::V => Some(&self.v),
            Role::O => Some(&self.o),
            Role::Gate => self.gate.as_ref(),
            Role::Up => Some(&self.up),
            Role::Down => Some(&self.down),
        }
    }

    /// The same, to be replaced.
    pub fn linear_mut(&mut self, role: Role) -> Option<&mut Linear> {
        match role {
            Role::Q => Some(&mut self.q),
            Role::K => Some(&mut self.k),
            Role::V => Some(&mut self.v),
            Role::O => Some(&mut self.o),
            Role::Gate => self.gate.as_mut(),
            Role::Up => Some(&mut self.up),
            Role::Down => Some(&mut self.down),
        }
    }

    /// The norm of a role, where the block has it.
    pub fn norm(&self, role: NormRole) -> Option<&NormWeights> {
        match role {
            NormRole::Attention => Some(&self.attention_norm),
            NormRole::Query => self.q_norm.as_ref(),
            NormRole::Key => self.k_norm.as_ref(),
            NormRole::PostAttention => self.post_attention_norm.as_ref(),
            NormRole::Mlp => Some(&self.mlp_norm),
            NormRole::PostMlp => self.post_mlp_norm.as_ref(),
        }
    }

    /// The same, to be changed.
    pub fn norm_mut(&mut self, role: NormRole) -> Option<&mut NormWeights> {
        match role {
            NormRole::Attention => Some(&mut self.attention_norm),
            NormRole::Query => self.q_norm.as_mut(),
            NormRole::Key => self.k_norm.as_mut(),
            NormRole::PostAttention => self.post_attention_norm.as_mut(),
            NormRole::Mlp => Some(&mut self.mlp_norm),
            NormRole::PostMlp => self.post_mlp_norm.as_mut(),
        }
    }

    /// All norms of the block.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeights> {
        NormRole::ALL.into_iter().filter_map(|role| self.norm(role))
    }

    /// Window and rotary table.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// `x [m, hidden]` through the whole block, in place.
    pub fn forward(&self, pass: Pass<'_>, x: &mut [f32], spans: &mut [Span<'_>]) {
        let h = self.attention_input(pass, x);
        let mixed = self.attention_mix(pass, &h, spans);
        self.attention_output(pass, &mixed, x);
        let h = self.mlp_input(pass, x);
        let mixed = self.mlp_mix(pass, &h);
        self.mlp_output(pass, &mixed, x);
    }

    /// What q, k and v see, `[m, hidden]`.
    pub fn attention_input(&self, pass: Pass<'_>, x: &[f32]) -> Vec<f32> {
        sublayer_input(pass, &self.attention_norm, x)
    }

    /// The attention that every row of `h` receives, `[m]`, as the mean of all heads and of every
    /// `step`-th query of its sequence, counted back from the last. In units of one query's
    /// attention times the queries it stands for: the mean over a sequence is about 1. The
    /// caches must be empty; what is in them afterwards is of no use.
    pub fn attention_received(
        &self,
        pass: Pass<'_>,
        h: &[f32],
        spans: &mut [Span<'_>],
        step: usize,
    ) -> Vec<f32> {
        let config = pass.config;
        let rotation = pass.rotations.get(self.layer.rope);
        let k = heads(pass, apply(pass, &self.k, h), self.k_norm.as_ref(), rotation);
        let kv_width = config.kv_heads * config.head_dim;
        let m = h.len() / config.hidden;
        let mut out = vec![0.0; m];
        let mut row = 0;
        for span in spans {
            let rows = row..row + span.rows;
            row += span.rows;
            let first = (span.rows - 1) % step;
            let asked = (rows.start + first..rows.end).step_by(step);
            let h = pick_rows(h, config.hidden, asked.clone());
            let angles = rotation.map(|r| r.pick(asked.clone(), m));
            let q = heads(pass, apply(pass, &self.q, &h), self.q_norm.as_ref(), angles.as_ref());
            let k = &k[rows.start * kv_width..rows.end * kv_width];
            // Nobody looks at the values; the keys stand in for them.
            span.cache.append(k, k).expect(ROOM);
            let out = &mut out[rows];
            pass.ops.received(&q, (first, step), span.cache, &self.attention(config), out);
            let share = step as f32 / config.heads as f32;
            out.iter_mut().for_each(|weight| *weight *= share);
        }
        out
    }

    /// What o sees, `[m, heads * head_dim]`. Appends keys and values to the caches.
    pub fn attention_mix(&self, pass: Pass<'_>, h: &[f32], spans: &mut [Span<'_>]) -> Vec<f32> {
        let config = pass.config;
        let rotation = pass.rotations.get(self.layer.rope);
        let [q, k, v] = together(pass, h, [&self.q, &self.k, &self.v]);
        let q = heads(pass, q, self.q_norm.as_ref(), rotation);
        let k = heads(pass, k, self.k_norm.as_ref(), rotation);
        let params = self.attention(config);
        let (q_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut mixed = vec![0.0; q.len()];
        let mut row = 0;
        for span in spans {
            let (rows, start) = (row..row + span.rows, span.cache.len());
            row += span.rows;
            let kv = rows.start * kv_width..rows.end * kv_width;
            let q_rows = rows.start * q_width..rows.end * q_width;
            span.cache.append(&k[kv.clone()], &v[kv]).expect(ROOM);
            pass.ops.attend(&q[q_rows.clone()], start, span.cache, &params, &mut mixed[q_rows]);
        }
        mixed
    }

    /// Shape and rule of its attention.
    pub fn attention(&self, config: &Config) -> AttentionParams {
        AttentionParams {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
            window: self.layer.window,
        }
    }

    /// Adds the attention branch to `x`.
    pub fn attention_output(&self, pass: Pass<'_>, mixed: &[f32], x: &mut [f32]) {
        let branch = apply(pass, &self.o, mixed);
        sublayer_output(pass, branch, (&self.attention_norm, self.post_attention_norm.as_ref()), x);
    }

    /// What gate and up see, `[m, hidden]`.
    pub fn mlp_input(&self, pass: Pass<'_>, x: &[f32]) -> Vec<f32> {
        sublayer_input(pass, &self.mlp_norm, x)
    }

    /// What down sees, `[m, intermediate]`.
    pub fn mlp_mix(&self, pass: Pass<'_>, h: &[f32]) -> Vec<f32> {
        let (mut x, up) = match &self.gate {
            Some(gate) => {
                let [x, up] = together(pass, h, [gate, &self.up]);
                (x, Some(up))
            }
            None => (apply(pass, &self.up, h), None),
        };
        pass.ops.activate(pass.config.activation, &mut x, up.as_deref());
        x
    }

    /// Adds the MLP branch to `x`.
    pub fn mlp_output(&self, pass: Pass<'_>, mixed: &[f32], x: &mut [f32]) {
        let branch = apply(pass, &self.down, mixed);
        sublayer_output(pass, branch, (&self.mlp_norm, self.post_mlp_norm.as_ref()), x);
    }
}

/// Queries or keys, normed and rotated, `[m, heads * head_dim]`.
fn heads(
    pass: Pass<'_>,
    mut x: Vec<f32>,
    norm: Option<&NormWeights>,
    rotation: Option<&Rotation>,
) -> Vec<f32> {
    if let Some(norm) = norm {
        x = normed(pass, norm, &x);
    }
    if let Some(Rotation { cos, sin }) = rotation {
        pass.ops.rotate(&mut x, pass.config.head_dim, cos, sin);
    }
    x
}

fn apply(pass: Pass<'_>, linear: &Linear, x: &[f32]) -> Vec<f32> {
    linear.apply(pass.ops, x, pass.alpha)
}

/// Several layers of the same `x`.
fn together<const N: usize>(pass: Pass<'_>, x: &[f32], layers: [&Linear; N]) -> [Vec<f32>; N] {
    let mut ys = pass.ops.linears(x, &layers, pass.alpha);
    layers.iter().zip(&mut ys).for_each(|(layer, y)| layer.adapt(pass.ops, x, y));
    ys.try_into().expect("one result a layer")
}

fn normed(pass: Pass<'_>, weights: &NormWeights, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    pass.ops.norm(x, pass.config.norm, weights, &mut y);
    y
}

fn sublayer_input(pass: Pass<'_>, norm: &NormWeights, x: &[f32]) -> Vec<f32> {
    match pass.config.placement {
        NormPlacement::Before | NormPlacement::Both => normed(pass, norm, x),
        NormPlacement::After => x.to_vec(),
    }
}

/// Adds a branch to the residual stream; `norms` are the sub-layer's own norm, which
/// post-norm models apply to the sum, and the norm of the branch.
fn sublayer_output(
    pass: Pass<'_>,
    branch: Vec<f32>,
    norms: (&NormWeights, Option<&NormWeights>),
    x: &mut [f32],
) {
    let branch = norms.1.map(|norm| normed(pass, norm, &branch)).unwrap_or(branch);
    pass.ops.add(x, &branch);
    if pass.config.placement == NormPlacement::After {
        let y = normed(pass, norms.0, x);
        x.copy_from_slice(&y);
    }
}
