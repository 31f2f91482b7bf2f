//! What calibration knows about a linear's inputs, made ready once for all linears that
//! read the same input (q, k and v; gate and up). It knows no weights.
//!
//! Frantar 2022, arXiv 2210.17323.

use super::factor::{FactorRecord, Gram, InverseFactor};
use super::order::{ActivationOrder, Order};
use super::threads::Threads;
use crate::error::{Error, Kind, Result};
use crate::units::Damping;

/// A factored Gram matrix.
#[derive(Debug, Clone)]
pub struct Factored {
    /// `U`, `H^-1 = U^T U`.
    pub u: InverseFactor,
    /// What factoring took.
    pub record: FactorRecord,
    /// `1 / U_jj^2` for the columns in storage order: what a squared error in column `j`
    /// costs once all later columns have made up for it as well as they can.
    pub price: Vec<f32>,
}

/// Evidence of one input, prepared for one damping and one order.
#[derive(Debug, Clone)]
pub struct Evidence {
    tokens: u64,
    dead: Vec<usize>,
    damping: Damping,
    order: ActivationOrder,
    lambda: f64,
    h: Vec<f32>, // [k, k], with lambda on its diagonal
    factored: Result<Factored>,
}

impl Evidence {
    /// Factors `gram`. A failure to factor is kept, not raised: the policy of each
    /// linear's plan says what follows from it.
    pub fn prepare(gram: &Gram, damping: Damping, order: ActivationOrder) -> Self {
        // On a thread of its own: see `Threads::map`.
        let factored = Threads::ONE.map(1, |_| factor(gram, damping, order)).remove(0);
        let lambda = factored.as_ref().map_or(damping.get() * gram.scale(), |f| f.record.lambda);
        Self {
            tokens: gram.tokens(),
            dead: (0..gram.size()).filter(|&j| gram.at(j, j) == 0.0).collect(),
            damping,
            order,
            lambda,
            h: gram.damped_f32(lambda),
            factored,
        }
    }

    /// Input features.
    pub fn size(&self) -> usize {
        self.h.len().isqrt()
    }
    /// Inputs that were seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// Columns whose input was zero on every token.
    pub fn dead_columns(&self) -> usize {
        self.dead.len()
    }
    /// Which columns these are, ascending.
    pub fn dead(&self) -> &[usize] {
        &self.dead
    }
    /// Damping that was asked for.
    pub fn damping(&self) -> Damping {
        self.damping
    }
    /// Column order that was asked for.
    pub fn order(&self) -> ActivationOrder {
        self.order
    }
    /// What was added to the diagonal of `h`.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }
    /// The damped Gram matrix `[k, k]`, columns in storage order.
    pub fn h(&self) -> &[f32] {
        &self.h
    }
    /// Its diagonal.
    pub fn diagonal(&self) -> Vec<f32> {
        self.h.iter().step_by(self.size() + 1).copied().collect()
    }
    /// The factor, or why there is none.
    pub fn factored(&self) -> Result<&Factored> {
        self.factored.as_ref().map_err(Clone::clone)
    }
}

fn factor(gram: &Gram, damping: Damping, order: ActivationOrder) -> Result<Factored> {
    if gram.tokens() == 0 || gram.dead_columns() == gram.size() {
        return Err(Error::new(Kind::Quality, "calibration never reached this linear")
            .next("use more or other calibration text, or allow round-to-nearest for this linear"));
    }
    let (u, record) = gram.factor(damping, &Order::of(order, gram))?;
    let mut price = vec![0.0; gram.size()];
    for position in 0..gram.size() {
        price[u.order().original(position)] = u.pivot(position).powi(-2);
    }
    Ok(Factored { u, record, price })
}
