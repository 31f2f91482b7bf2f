//! A decoder block forward, with what the way back needs written down, and back. The same sums as
//! `model::block` makes, in the same order. Knows no loss.

use super::gradient::{Pass, Place};
use super::parameters::Parameters;
use super::plan::BlockPlan;
use crate::model::block::{Block, NormRole, Role};
use crate::model::config::NormPlacement;
use crate::ops::backward::{Normed, Sequence, SequenceGradient};
use crate::ops::{Buffer, KvLayer};

/// What one block wrote down; all `[m, ...]`. What is cheap to make again is not kept.
#[derive(Debug)]
pub struct Tape {
    /// The residual stream before the block.
    x: Buffer,
    /// Queries and keys before their norms, where they have some.
    raw: Option<(Buffer, Buffer)>,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    /// What attention hands to o.
    mixed: Buffer,
    attention: Branch,
    mlp: Mlp,
}

/// What the second half wrote down.
#[derive(Debug)]
struct Mlp {
    /// The residual stream between attention and MLP.
    x: Buffer,
    gate: Option<Buffer>,
    up: Buffer,
    branch: Branch,
}

/// What the end of a sub-layer wrote down.
#[derive(Debug, Default)]
struct Branch {
    /// The branch before its own norm (norms before and after).
    branch: Option<Buffer>,
    /// The sum before its norm (norms after).
    sum: Option<Buffer>,
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
    pub fn forward(self, pass: Pass<'_>, x: Buffer) -> (Tape, Buffer) {
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
        let roles = (NormRole::Attention, NormRole::PostAttention);
        let (attention, middle) = self.sublayer_output(pass, roles, branch, &x);
        let (mlp, out) = self.mlp(pass, middle);
        (Tape { x, raw, q, k, v, mixed, attention, mlp }, out)
    }

    fn mlp(self, pass: Pass<'_>, x: Buffer) -> (Mlp, Buffer) {
        let h = self.sublayer_input(pass, NormRole::Mlp, &x);
        let gate = self.block.linear(Role::Gate).map(|_| pass.forward(self.place(Role::Gate), &h));
        let up = pass.forward(self.place(Role::Up), &h);
        drop(h);
        let inner = self.activated(pass, gate.as_deref(), &up);
        let branch = pass.forward(self.place(Role::Down), &inner);
        let (branch, out) = self.sublayer_output(pass, (NormRole::Mlp, NormRole::PostMlp), branch, &x);
        (Mlp { x, gate, up, branch }, out)
    }

    /// The gradient of the residual stream before the block; adds those of what is trained.
    pub fn backward(self, pass: Pass<'_>, tape: Tape, to: &mut Parameters, dout: Buffer) -> Buffer {
        let Tape { x, raw, q, k, v, mixed, attention, mlp } = tape;
        let dout = self.mlp_back(pass, mlp, to, dout);
        let roles = (NormRole::Attention, NormRole::PostAttention);
        let (mut dx, dbranch) = self.output_back(pass, roles, &attention, to, dout);
        let dmixed = pass.backward(self.place(Role::O), to, Some(&mixed), dbranch.as_deref().unwrap_or(&dx));
        drop(mixed);
        let [mut dq, mut dk, dv] = self.attend_back(pass, (&q, &k, &v), &dmixed);
        if let Some(angles) = pass.rotations.get(self.block.layer().rope) {
            pass.ops.rotate_back(&mut dq, pass.config.head_dim, &angles.cos, &angles.sin);
            pass.ops.rotate_back(&mut dk, pass.config.head_dim, &angles.cos, &angles.sin);
        }
        if let Some((q, k)) = &raw {
            dq = self.norm_back(pass, NormRole::Query, to, Normed { x: q, dy: &dq });
            dk = self.norm_back(pass, NormRole::Key, to, Normed { x: k, dy: &dk });
        }
        let gradients = [(Role::Q, dq), (Role::K, dk), (Role::V, dv)];
        self.inputs_back(pass, (NormRole::Attention, &x), to, gradients.into(), &mut dx);
        dx
    }

    fn mlp_back(self, pass: Pass<'_>, tape: Mlp, to: &mut Parameters, dout: Buffer) -> Buffer {
        let Mlp { x, mut gate, mut up, branch } = tape;
        let (mut dx, dbranch) = self.output_back(pass, (NormRole::Mlp, NormRole::PostMlp), &branch, to, dout);
        let down = self.place(Role::Down);
        let inner = down.needs_input().then(|| self.activated(pass, gate.as_deref(), &up));
        let dinner = pass.backward(down, to, inner.as_deref(), dbranch.as_deref().unwrap_or(&dx));
        drop(inner);
        let kind = pass.config.activation;
        match &mut gate {
            Some(gate) => pass.ops.activation_gradient(kind, gate, Some(&mut up), &dinner),
            None => pass.ops.activation_gradient(kind, &mut up, None, &dinner),
        }
        drop(dinner);
        let mut gradients = vec![(Role::Up, up)];
        gradients.extend(gate.map(|gate| (Role::Gate, gate)));
        self.inputs_back(pass, (NormRole::Mlp, &x), to, gradients, &mut dx);
        dx
    }

    /// Back through the linears at the beginning of a sub-layer and the norm before them: adds to the gradient of
    /// the stream `x`.
    fn inputs_back(
        self,
        pass: Pass<'_>,
        (norm, x): (NormRole, &[f32]),
        to: &mut Parameters,
        gradients: Vec<(Role, Buffer)>,
        dx: &mut [f32],
    ) {
        let needed = gradients.iter().any(|(role, _)| self.place(*role).needs_input());
        let h = needed.then(|| self.sublayer_input(pass, norm, x));
        let mut sum: Option<Buffer> = None;
        for (role, dy) in gradients {
            let part = pass.backward(self.place(role), to, h.as_deref(), &dy);
            match &mut sum {
                Some(sum) => pass.ops.add(sum, &part),
                None => sum = Some(part),
            }
        }
        let dh = sum.expect("a sub-layer begins with a linear");
        match pass.config.placement {
            NormPlacement::Before | NormPlacement::Both => {
                pass.ops.add(dx, &self.norm_back(pass, norm, to, Normed { x, dy: &dh }));
            }
            NormPlacement::After => pass.ops.add(dx, &dh),
        }
    }

    /// Every sequence attends to itself.
    fn attend(self, pass: Pass<'_>, (q, k, v): (&[f32], &[f32], &[f32])) -> Buffer {
        let config = pass.config;
        let params = self.block.attention(config);
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut mixed = pass.buffers.take(q.len());
        let rows = q.chunks(pass.length * wide).zip(mixed.chunks_mut(pass.length * wide));
        let pairs = k.chunks(pass.length * narrow).zip(v.chunks(pass.length * narrow));
        for ((q, mixed), (k, v)) in rows.zip(pairs) {
            let mut cache = KvLayer::new(config.kv_heads, config.head_dim, pass.length, pass.cache);
            cache.append(k, v).expect("the cache has room for the sequence");
            pass.ops.attend(q, 0, &cache, &params, mixed);
        }
        mixed
    }

    fn attend_back(self, pass: Pass<'_>, (q, k, v): (&[f32], &[f32], &[f32]), dmixed: &[f32]) -> [Buffer; 3] {
        let config = pass.config;
        let params = self.block.attention(config);
        let wide = pass.length * config.heads * config.head_dim;
        let narrow = pass.length * config.kv_heads * config.head_dim;
        let mut gradients = [q, k, v].map(|x| pass.buffers.take(x.len()));
        let [dq, dk, dv] = &mut gradients;
        let dq = dq.chunks_mut(wide);
        let dkv = dk.chunks_mut(narrow).zip(dv.chunks_mut(narrow));
        for (i, (dq, (dk, dv))) in dq.zip(dkv).enumerate() {
            let (wide, narrow) = (i * wide..i * wide + dq.len(), i * narrow..i * narrow + dk.len());
            let input = Sequence { q: &q[wide.clone()], k: &k[narrow.clone()], v: &v[narrow] };
            let to = SequenceGradient { q: dq, k: dk, v: dv };
            pass.ops.attend_gradient(input, &params, &dmixed[wide], to);
        }
        gradients
    }

    /// What down sees.
    fn activated(self, pass: Pass<'_>, gate: Option<&[f32]>, up: &[f32]) -> Buffer {
        let mut x = pass.buffers.copy(gate.unwrap_or(up));
        pass.ops.activate(pass.config.activation, &mut x, gate.map(|_| up));
        x
    }

    fn sublayer_input(self, pass: Pass<'_>, role: NormRole, x: &[f32]) -> Buffer {
        match (pass.config.placement, self.block.norm(role)) {
            (NormPlacement::Before | NormPlacement::Both, Some(norm)) => pass.norm(norm, x),
            _ => pass.buffers.copy(x),
        }
    }

    /// The residual stream `x` with a branch added; `roles` are the norm of the sub-layer, which
    /// post-norm models apply to the sum, and that of the branch.
    fn sublayer_output(
        self,
        pass: Pass<'_>,
        roles: (NormRole, NormRole),
        branch: Buffer,
        x: &[f32],
    ) -> (Branch, Buffer) {
        let mut kept = Branch::default();
        let mut sum = match self.block.norm(roles.1) {
            Some(norm) => {
                let normed = pass.norm(norm, &branch);
                kept.branch = Some(branch);
                normed
            }
            None => branch,
        };
        pass.ops.add(&mut sum, x);
        match (pass.config.placement, self.block.norm(roles.0)) {
            (NormPlacement::After, Some(norm)) => {
                let y = pass.norm(norm, &sum);
                kept.sum = Some(sum);
                (kept, y)
            }
            _ => (kept, sum),
        }
    }

    /// The gradients of the stream and of the branch; one for both where nothing lies between.
    fn output_back(
        self,
        pass: Pass<'_>,
        roles: (NormRole, NormRole),
        kept: &Branch,
        to: &mut Parameters,
        mut dout: Buffer,
    ) -> (Buffer, Option<Buffer>) {
        if let Some(sum) = &kept.sum {
            dout = self.norm_back(pass, roles.0, to, Normed { x: sum, dy: &dout });
        }
        let branch = kept.branch.as_ref();
        let dbranch = branch.map(|branch| self.norm_back(pass, roles.1, to, Normed { x: branch, dy: &dout }));
        (dout, dbranch)
    }

    fn norm_back(self, pass: Pass<'_>, role: NormRole, to: &mut Parameters, at: Normed<'_>) -> Buffer {
        let weights = self.block.norm(role).expect("asked for only where there is one");
        pass.norm_back((weights, self.plan.norm(role)), to, at)
    }
}
