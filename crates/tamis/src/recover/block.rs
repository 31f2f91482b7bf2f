//! A decoder block forward, with what the way back needs written down, and back. The same sums as
//! `model::block` makes, in the same order. Knows no loss.

use super::gradient::{Pass, Place};
use super::parameters::Parameters;
use super::plan::BlockPlan;
use crate::model::block::{Block, NormRole, Role};
use crate::model::config::NormPlacement;
use crate::ops::KvLayer;
use crate::ops::backward::{Normed, Sequence, SequenceGradient};

/// What one block wrote down; all `[m, ...]`. What is cheap to make again is not kept.
#[derive(Debug)]
pub struct Tape {
    /// The residual stream before the block.
    x: Vec<f32>,
    /// Queries and keys before their norms, where they have some.
    raw: Option<(Vec<f32>, Vec<f32>)>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// What attention hands to o.
    mixed: Vec<f32>,
    attention: Branch,
    /// The residual stream between attention and MLP.
    middle: Vec<f32>,
    gate: Option<Vec<f32>>,
    up: Vec<f32>,
    mlp: Branch,
}

/// What the end of a sub-layer wrote down.
#[derive(Debug, Default)]
struct Branch {
    /// The branch before its own norm (norms before and after).
    branch: Option<Vec<f32>>,
    /// The sum before its norm (norms after).
    sum: Option<Vec<f32>>,
}

/// A block with its plan and its index.
#[derive(Debug, Clone, Copy)]
pub struct Trainee<'a> {
    /// The block.
    pub block: &'a Block,
    /// How it is trained.
    pub plan: &'a BlockPlan,
    /// Its index.
    pub index: usize,
}

impl Tape {
    /// The residual stream before the block.
    pub fn input(&self) -> &[f32] {
        &self.x
    }
}

impl<'a> Trainee<'a> {
    fn place(self, role: Role) -> Place<'a> {
        let linear = self.block.linear(role).expect("asked for only where there is one");
        let number = (self.index * Role::ALL.len() + role as usize) as u64;
        Place { linear, plan: self.plan.linear(role), number }
    }

    /// The residual stream after the block, and the tape.
    pub fn forward(self, pass: Pass<'_>, x: Vec<f32>) -> (Tape, Vec<f32>) {
        let h = self.sublayer_input(pass, NormRole::Attention, &x);
        let [q, k, v] = [Role::Q, Role::K, Role::V].map(|role| pass.forward(self.place(role), &h));
        drop(h);
        let normed = self.block.norm(NormRole::Query).zip(self.block.norm(NormRole::Key));
        let (raw, mut q, mut k) = match normed {
            Some((of_q, of_k)) => {
                let (nq, nk) = (pass.norm(of_q, &q), pass.norm(of_k, &k));
                (Some((q, k)), nq, nk)
            }
            None => (None, q, k),
        };
        if let Some(angles) = pass.rotations.get(self.block.layer().rope) {
            pass.ops.rotate(&mut q, pass.config.head_dim, &angles.cos, &angles.sin);
            pass.ops.rotate(&mut k, pass.config.head_dim, &angles.cos, &angles.sin);
        }
        let mixed = self.attend(pass, (&q, &k, &v));
        let branch = pass.forward(self.place(Role::O), &mixed);
        let (attention, middle) =
            self.sublayer_output(pass, (NormRole::Attention, NormRole::PostAttention), branch, x.clone());

        let h = self.sublayer_input(pass, NormRole::Mlp, &middle);
        let gate = self.block.linear(Role::Gate).map(|_| pass.forward(self.place(Role::Gate), &h));
        let up = pass.forward(self.place(Role::Up), &h);
        let inner = self.activated(pass, gate.as_deref(), &up);
        let branch = pass.forward(self.place(Role::Down), &inner);
        let (mlp, out) =
            self.sublayer_output(pass, (NormRole::Mlp, NormRole::PostMlp), branch, middle.clone());
        (Tape { x, raw, q, k, v, mixed, attention, middle, gate, up, mlp }, out)
    }

    /// The gradient of the residual stream before the block; adds those of what is trained.
    pub fn backward(self, pass: Pass<'_>, tape: Tape, to: &mut Parameters, dout: Vec<f32>) -> Vec<f32> {
        let middle = self.mlp_back(pass, &tape, to, dout);
        self.attention_back(pass, &tape, to, middle)
    }

    fn mlp_back(self, pass: Pass<'_>, tape: &Tape, to: &mut Parameters, dout: Vec<f32>) -> Vec<f32> {
        let roles = (NormRole::Mlp, NormRole::PostMlp);
        let (mut dx, dbranch) = self.output_back(pass, roles, &tape.mlp, to, dout);
        let inner = self.activated(pass, tape.gate.as_deref(), &tape.up);
        let dinner = pass.backward(self.place(Role::Down), to, &inner, dbranch.as_deref().unwrap_or(&dx));
        drop(inner);
        let kind = pass.config.activation;
        let (mut gate, mut up) = (tape.gate.clone(), tape.up.clone());
        match &mut gate {
            Some(gate) => pass.ops.activation_gradient(kind, gate, Some(&mut up), &dinner),
            None => pass.ops.activation_gradient(kind, &mut up, None, &dinner),
        }
        let h = self.sublayer_input(pass, NormRole::Mlp, &tape.middle);
        let mut dh = pass.backward(self.place(Role::Up), to, &h, &up);
        if let Some(gate) = gate {
            let part = pass.backward(self.place(Role::Gate), to, &h, &gate);
            pass.ops.add(&mut dh, &part);
        }
        let part = self.input_back(pass, NormRole::Mlp, to, (&tape.middle, dh));
        pass.ops.add(&mut dx, &part);
        dx
    }

    fn attention_back(self, pass: Pass<'_>, tape: &Tape, to: &mut Parameters, dout: Vec<f32>) -> Vec<f32> {
        let roles = (NormRole::Attention, NormRole::PostAttention);
        let (mut dx, dbranch) = self.output_back(pass, roles, &tape.attention, to, dout);
        let dmixed = pass.backward(self.place(Role::O), to, &tape.mixed, dbranch.as_deref().unwrap_or(&dx));
        let [mut dq, mut dk, dv] = self.attend_back(pass, tape, &dmixed);
        if let Some(angles) = pass.rotations.get(self.block.layer().rope) {
            pass.ops.rotate_back(&mut dq, pass.config.head_dim, &angles.cos, &angles.sin);
            pass.ops.rotate_back(&mut dk, pass.config.head_dim, &angles.cos, &angles.sin);
        }
        if let Some((q, k)) = &tape.raw {
            dq = self.norm_back(pass, NormRole::Query, to, Normed { x: q, dy: &dq });
            dk = self.norm_back(pass, NormRole::Key, to, Normed { x: k, dy: &dk });
        }
        let h = self.sublayer_input(pass, NormRole::Attention, &tape.x);
        let mut dh = pass.backward(self.place(Role::Q), to, &h, &dq);
        for (role, dy) in [(Role::K, dk), (Role::V, dv)] {
            let part = pass.backward(self.place(role), to, &h, &dy);
            pass.ops.add(&mut dh, &part);
        }
        let part = self.input_back(pass, NormRole::Attention, to, (&tape.x, dh));
        pass.ops.add(&mut dx, &part);
        dx
    }

    /// Every sequence attends to itself.
    fn attend(self, pass: Pass<'_>, (q, k, v): (&[f32], &[f32], &[f32])) -> Vec<f32> {
        let config = pass.config;
        let params = self.block.attention(config);
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut mixed = vec![0.0; q.len()];
        let rows = q.chunks(pass.length * wide).zip(mixed.chunks_mut(pass.length * wide));
        let pairs = k.chunks(pass.length * narrow).zip(v.chunks(pass.length * narrow));
        for ((q, mixed), (k, v)) in rows.zip(pairs) {
            let mut cache = KvLayer::new(config.kv_heads, config.head_dim, pass.length, pass.cache);
            cache.append(k, v).expect("the cache has room for the sequence");
            pass.ops.attend(q, 0, &cache, &params, mixed);
        }
        mixed
    }

    fn attend_back(self, pass: Pass<'_>, tape: &Tape, dmixed: &[f32]) -> [Vec<f32>; 3] {
        let config = pass.config;
        let params = self.block.attention(config);
        let wide = pass.length * config.heads * config.head_dim;
        let narrow = pass.length * config.kv_heads * config.head_dim;
        let mut gradients = [&tape.q, &tape.k, &tape.v].map(|x| vec![0.0; x.len()]);
        let [dq, dk, dv] = &mut gradients;
        let dq = dq.chunks_mut(wide);
        let dkv = dk.chunks_mut(narrow).zip(dv.chunks_mut(narrow));
        for (i, (q, (k, v))) in dq.zip(dkv).enumerate() {
            let (wide, narrow) = (i * wide..i * wide + q.len(), i * narrow..i * narrow + k.len());
            let input = Sequence { q: &tape.q[wide.clone()], k: &tape.k[narrow.clone()], v: &tape.v[narrow] };
            pass.ops.attend_gradient(input, &params, &dmixed[wide], SequenceGradient { q, k, v });
        }
        gradients
    }

    /// What down sees.
    fn activated(self, pass: Pass<'_>, gate: Option<&[f32]>, up: &[f32]) -> Vec<f32> {
        let (mut x, up) = match gate {
            Some(gate) => (gate.to_vec(), Some(up)),
            None => (up.to_vec(), None),
        };
        pass.ops.activate(pass.config.activation, &mut x, up);
        x
    }

    fn sublayer_input(self, pass: Pass<'_>, role: NormRole, x: &[f32]) -> Vec<f32> {
        match (pass.config.placement, self.block.norm(role)) {
            (NormPlacement::Before | NormPlacement::Both, Some(norm)) => pass.norm(norm, x),
            _ => x.to_vec(),
        }
    }

    /// The gradient of the residual stream by way of what the sub-layer saw.
    fn input_back(
        self,
        pass: Pass<'_>,
        role: NormRole,
        to: &mut Parameters,
        (x, dh): (&[f32], Vec<f32>),
    ) -> Vec<f32> {
        match pass.config.placement {
            NormPlacement::Before | NormPlacement::Both => {
                self.norm_back(pass, role, to, Normed { x, dy: &dh })
            }
            NormPlacement::After => dh,
        }
    }

    /// The residual stream `x` with a branch added; `roles` are the norm of the sub-layer, which
    /// post-norm models apply to the sum, and that of the branch.
    fn sublayer_output(
        self,
        pass: Pass<'_>,
        roles: (NormRole, NormRole),
        branch: Vec<f32>,
        mut x: Vec<f32>,
    ) -> (Branch, Vec<f32>) {
        let mut kept = Branch::default();
        match self.block.norm(roles.1) {
            Some(norm) => {
                pass.ops.add(&mut x, &pass.norm(norm, &branch));
                kept.branch = Some(branch);
            }
            None => pass.ops.add(&mut x, &branch),
        }
        match (pass.config.placement, self.block.norm(roles.0)) {
            (NormPlacement::After, Some(norm)) => {
                let y = pass.norm(norm, &x);
                kept.sum = Some(x);
                (kept, y)
            }
            _ => (kept, x),
        }
    }

    /// The gradients of the stream and of the branch; one for both where nothing lies between.
    fn output_back(
        self,
        pass: Pass<'_>,
        roles: (NormRole, NormRole),
        kept: &Branch,
        to: &mut Parameters,
        mut dout: Vec<f32>,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        if let Some(sum) = &kept.sum {
            dout = self.norm_back(pass, roles.0, to, Normed { x: sum, dy: &dout });
        }
        let branch = kept.branch.as_ref();
        let dbranch = branch.map(|branch| self.norm_back(pass, roles.1, to, Normed { x: branch, dy: &dout }));
        (dout, dbranch)
    }

    fn norm_back(self, pass: Pass<'_>, role: NormRole, to: &mut Parameters, at: Normed<'_>) -> Vec<f32> {
        let weights = self.block.norm(role).expect("asked for only where there is one");
        pass.norm_back((weights, self.plan.norm(role)), to, at)
    }
}
