//! A trained model as a folder: trained tensors in the layout and under the mask that they came with,
//! everything else as it was. Knows no training.

use std::collections::BTreeMap;
use std::path::Path;

use super::parameters::{Id, Parameters};
use super::plan::{BlockPlan, NormPlan, Plan, Trained};
use crate::artifact::{Existing, Resume, Stored};
use crate::error::Result;
use crate::job::rewrite::{Notes, rewrite, storable};
use crate::load::Checkpoint;
use crate::model::architecture::NormStorage;
use crate::model::block::{NormRole, Role};
use crate::model::{Config, Weight};
use crate::ops::Ops;

/// Tensors that differ from those of the checkpoint: what each is made from, at the moment it is asked for.
#[derive(Debug)]
pub struct Changed<'a> {
    ops: &'a dyn Ops,
    parameters: &'a Parameters,
    sources: BTreeMap<String, Source<'a>>,
}

/// Where the values of a tensor come from.
#[derive(Debug)]
enum Source<'a> {
    Linear(&'a Trained),
    /// Masters as they are.
    Masters(Id),
    /// Masters of a norm, and what its family leaves out when it is stored.
    Norm(Id, f32),
}

impl Changed<'_> {
    /// The values of a tensor of this shape, where they differ.
    fn values(&self, name: &str, shape: (usize, usize)) -> Result<Option<Vec<f32>>> {
        Ok(match self.sources.get(name) {
            None => None,
            Some(Source::Linear(trained)) => trained.values(shape, (self.ops, self.parameters), |v| v)?,
            Some(Source::Masters(id)) => Some(self.parameters.values(*id).to_vec()),
            Some(Source::Norm(id, offset)) => {
                Some(self.parameters.values(*id).iter().map(|w| w - offset).collect())
            }
        })
    }
}

/// Writes `checkpoint` with other values in place of what was trained.
pub fn save(checkpoint: &Checkpoint, changed: &Changed<'_>, output: &Path, notes: Notes) -> Result<()> {
    written(checkpoint, output, notes, &|name, stored| replaced(changed, name, stored))
}

/// Writes `checkpoint` as it is.
pub(super) fn copy(checkpoint: &Checkpoint, output: &Path, notes: Notes) -> Result<()> {
    written(checkpoint, output, notes, &|_, stored| unchanged(stored))
}

fn written(
    checkpoint: &Checkpoint,
    output: &Path,
    notes: Notes,
    change: &dyn Fn(&str, Stored) -> Result<Stored>,
) -> Result<()> {
    let target = (output, (Resume::Auto, Existing::Overwrite));
    rewrite(checkpoint, target, notes, change, &mut |_, _| ()).map(drop)
}

/// The tensor as it was.
pub(super) fn unchanged(stored: Stored) -> Result<Stored> {
    match stored {
        Stored::Vector(vector) => Ok(Stored::Vector(vector)),
        Stored::Matrix(weight) => storable(weight).map(Stored::Matrix),
    }
}

/// The tensor with other values, where it has some: in its own layout, 16 bits for integers without a mask.
pub(super) fn replaced(changed: &Changed<'_>, name: &str, stored: Stored) -> Result<Stored> {
    let shape = match &stored {
        Stored::Vector(_) => (0, 0),
        Stored::Matrix(weight) => (weight.rows(), weight.cols()),
    };
    let Some(values) = changed.values(name, shape)? else { return unchanged(stored) };
    match stored {
        Stored::Vector(_) => Ok(values.into()),
        Stored::Matrix(weight) => {
            let layout = match weight {
                Weight::Ggml(_) | Weight::Packed(_) | Weight::Sieved { .. } => weight.widened()?,
                other => other,
            };
            layout.with_values(&values).map(Stored::Matrix)
        }
    }
}

/// The tensors of a trained decoder that are not what they were, by name. Low-rank additions that are kept
/// apart are not among them.
pub fn changed<'a>(
    config: &Config,
    ops: &'a dyn Ops,
    (plan, parameters): (&'a Plan, &'a Parameters),
) -> Changed<'a> {
    let names = config.architecture.family().names;
    let mut sources = BTreeMap::new();
    for (index, block) in plan.blocks.iter().enumerate() {
        put_block(&mut sources, config, (block, index));
    }
    if let Some(plan) = plan.final_norm {
        put_norm(&mut sources, config, (names.final_norm, plan));
    }
    let tables = [(plan.embedding, names.embedding), (plan.head, names.head)];
    for (id, name) in tables.into_iter().filter_map(|(id, name)| Some((id?, name))) {
        sources.insert(format!("{name}.weight"), Source::Masters(id));
    }
    Changed { ops, parameters, sources }
}

/// The same of one block.
pub(super) fn changed_block<'a>(
    config: &Config,
    ops: &'a dyn Ops,
    ((plan, parameters), index): ((&'a BlockPlan, &'a Parameters), usize),
) -> Changed<'a> {
    let mut sources = BTreeMap::new();
    put_block(&mut sources, config, (plan, index));
    Changed { ops, parameters, sources }
}

fn put_block<'a>(
    to: &mut BTreeMap<String, Source<'a>>,
    config: &Config,
    (block, index): (&'a BlockPlan, usize),
) {
    for role in NormRole::ALL {
        if let Some(plan) = block.norm(role) {
            put_norm(to, config, (&role.name(config, index), plan));
        }
    }
    for role in Role::ALL {
        let (name, linear) = (role.name(config, index), block.linear(role));
        if let Some(bias) = linear.bias {
            to.insert(format!("{name}.bias"), Source::Masters(bias));
        }
        if !linear.weight.keeps_apart() {
            to.insert(format!("{name}.weight"), Source::Linear(&linear.weight));
        }
    }
}

/// Norms are written as their family stores them: Gemma's without the one that is added when they are read.
fn put_norm(to: &mut BTreeMap<String, Source<'_>>, config: &Config, (name, plan): (&str, NormPlan)) {
    let offset = if config.architecture.family().norms == NormStorage::MinusOne { 1.0 } else { 0.0 };
    to.insert(format!("{name}.weight"), Source::Norm(plan.scale, offset));
    if let Some(bias) = plan.bias {
        to.insert(format!("{name}.bias"), Source::Masters(bias));
    }
}
