//! In which order the column sweep visits the columns. It knows nothing about
//! grids: storage keeps the model's own column order whatever the order is here.
//!
//! Large activations first is the "act-order" of GPTQ's reference code
//! (Frantar 2022, arXiv 2210.17323).

use serde::{Deserialize, Serialize};

use super::factor::Gram;

/// Which order a plan asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationOrder {
    /// Columns as the model stores them; a group's grid is fitted when the sweep enters it.
    None,
    /// Largest mean squared input first, with every grid fitted up front on the
    /// original groups, so that nothing is reordered at run time.
    Static,
}

/// A permutation: which original column stands at each position of the sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order(Vec<u32>);

impl Order {
    /// Columns as they are stored.
    pub fn natural(size: usize) -> Self {
        Self((0..size as u32).collect())
    }

    /// Columns by falling diagonal of the Gram matrix; equal ones keep their order.
    pub fn by_activation(gram: &Gram) -> Self {
        let diagonal = gram.diagonal();
        let mut order: Vec<u32> = (0..diagonal.len() as u32).collect();
        order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]));
        Self(order)
    }

    /// The order that `choice` names for this Gram matrix.
    pub fn of(choice: ActivationOrder, gram: &Gram) -> Self {
        match choice {
            ActivationOrder::None => Self::natural(gram.size()),
            ActivationOrder::Static => Self::by_activation(gram),
        }
    }

    /// Original column at `position`.
    pub fn original(&self, position: usize) -> usize {
        self.0[position] as usize
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there is no column.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
