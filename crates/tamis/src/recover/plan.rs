//! Which parts of a decoder are trained, and how: the map from layers to [`Parameters`]. Knows no loss.
//!
//! LoRA: Hu 2021, arXiv 2106.09685; rank-stabilised: Kalajdzievski 2023, arXiv 2312.03732. Masks on the
//! product (MaskLoRA): Zimmer 2023, arXiv 2312.15230.

use std::sync::Arc;

use super::kept::Kept;
use super::parameters::{Id, Parameters};
use crate::error::Result;
use crate::model::LowRank;
use crate::model::block::{NormRole, Role};
use crate::ops::{Ops, each_piece};

/// A low-rank pair: `A [rank, in]`, `B [out, rank]`, and the factor on their product.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// `A`.
    pub a: Id,
    /// `B`.
    pub b: Id,
    /// Rows of `A`.
    pub rank: usize,
    /// The factor.
    pub scale: f32,
}

/// How the weight of one linear is trained.
#[derive(Debug, Clone)]
pub enum Trained {
    /// Not at all.
    Frozen,
    /// All of it.
    Dense(Id),
    /// The kept weights.
    Kept(Id, Arc<Kept>),
    /// A low-rank addition, kept apart.
    LowRank(Pair),
    /// A low-rank addition under the mask of the weight, `W + m (B A)`; with the kept weights to start from.
    Masked(Pair, Arc<Kept>, Arc<Vec<f32>>),
}

impl Trained {
    /// All values `[out, in]` of the weight as it is now, each through `make`; none where it is left alone, and
    /// its addition, if it has one, is kept apart.
    pub fn values<T: Send + Sync + Copy>(
        &self,
        shape: (usize, usize),
        (ops, masters): (&dyn Ops, &Parameters),
        make: fn(f32) -> T,
    ) -> Result<Option<Vec<T>>> {
        if self.keeps_apart() {
            return Ok(None);
        }
        let mut values = vec![make(0.0); shape.0 * shape.1];
        self.write(shape, (ops, masters), make, &mut values)?;
        Ok(Some(values))
    }

    /// Whether the weight is left alone, and its addition, if it has one, is kept apart.
    pub fn keeps_apart(&self) -> bool {
        matches!(self, Self::Frozen | Self::LowRank(_))
    }

    /// Overwrites `to` with these values.
    pub fn write<T: Send + Sync + Copy>(
        &self,
        shape: (usize, usize),
        (ops, masters): (&dyn Ops, &Parameters),
        make: fn(f32) -> T,
        to: &mut [T],
    ) -> Result<()> {
        if self.mask().is_some() {
            let zero = make(0.0);
            each_piece(ops, to, PIECE, &|_, to| to.fill(zero));
        }
        match self {
            Self::Frozen | Self::LowRank(_) => {}
            Self::Dense(id) => convert(ops, masters.values(*id), to, make),
            Self::Kept(id, kept) => {
                kept.scatter(ops, (masters.values(*id), to), &|_, value| make(value));
            }
            Self::Masked(pair, kept, base) => {
                let product = pair.low_rank(shape, masters)?.product(ops);
                kept.scatter(ops, (base, to), &|at, value| make(value + product[at]));
            }
        }
        Ok(())
    }

    /// The mask that is kept, if there is one.
    pub fn mask(&self) -> Option<&Kept> {
        match self {
            Self::Kept(_, kept) | Self::Masked(_, kept, _) => Some(kept),
            _ => None,
        }
    }
}

/// Values of a piece that one task converts.
const PIECE: usize = 1 << 16;

/// Each of `from` through `make`.
pub(super) fn convert<T: Send>(ops: &dyn Ops, from: &[f32], to: &mut [T], make: fn(f32) -> T) {
    each_piece(ops, to, PIECE, &|piece, to| {
        to.iter_mut().zip(&from[piece * PIECE..]).for_each(|(to, from)| *to = make(*from));
    });
}

impl Pair {
    /// As an addition to a linear `[out, in]`.
    pub fn low_rank(&self, shape: (usize, usize), masters: &Parameters) -> Result<LowRank> {
        LowRank::new(shape, masters.values(self.a).to_vec(), masters.values(self.b).to_vec(), self.scale)
    }
}

/// How one linear is trained.
#[derive(Debug, Clone)]
pub struct LinearPlan {
    /// Its weight.
    pub weight: Trained,
    /// Its bias, where that is trained.
    pub bias: Option<Id>,
}

impl LinearPlan {
    /// Nothing is trained.
    pub const FROZEN: Self = Self { weight: Trained::Frozen, bias: None };
}

/// Scale and bias of a norm, where they are trained.
#[derive(Debug, Clone, Copy)]
pub struct NormPlan {
    /// Its factor.
    pub scale: Id,
    /// Its addend.
    pub bias: Option<Id>,
}

/// How one block is trained.
#[derive(Debug, Clone)]
pub struct BlockPlan {
    linears: [LinearPlan; Role::ALL.len()],
    norms: [Option<NormPlan>; NormRole::ALL.len()],
}

impl BlockPlan {
    /// Nothing is trained.
    pub const FROZEN: Self =
        Self { linears: [LinearPlan::FROZEN; Role::ALL.len()], norms: [None; NormRole::ALL.len()] };

    /// That of a linear.
    pub fn linear(&self, role: Role) -> &LinearPlan {
        &self.linears[role as usize]
    }
    /// That of a linear, to be changed.
    pub fn linear_mut(&mut self, role: Role) -> &mut LinearPlan {
        &mut self.linears[role as usize]
    }
    /// That of a norm.
    pub fn norm(&self, role: NormRole) -> Option<NormPlan> {
        self.norms[role as usize]
    }
    /// Trains a norm.
    pub fn set_norm(&mut self, role: NormRole, plan: NormPlan) {
        self.norms[role as usize] = Some(plan);
    }
}

/// How a whole decoder is trained.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// One entry a block.
    pub blocks: Vec<BlockPlan>,
    /// The norm before the head.
    pub final_norm: Option<NormPlan>,
    /// The embedding, and with it a tied head.
    pub embedding: Option<Id>,
    /// A head of its own.
    pub head: Option<Id>,
}
