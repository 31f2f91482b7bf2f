//! A trained model as a folder: trained tensors in the layout and under the mask that they came with,
//! everything else as it was. Knows no training.

use std::collections::BTreeMap;
use std::path::Path;

use super::parameters::Parameters;
use super::plan::{BlockPlan, NormPlan, Plan};
use crate::artifact::{Existing, Resume, Stored};
use crate::error::Result;
use crate::job::rewrite::{Notes, Rewrite, storable};
use crate::load::Checkpoint;
use crate::model::architecture::NormStorage;
use crate::model::block::{NormRole, Role};
use crate::model::{Config, Weight};
use crate::ops::Ops;

/// Tensors that differ from those of the checkpoint.
pub type Changed = BTreeMap<String, Vec<f32>>;

/// Writes `checkpoint` with other values in place of what was trained.
pub fn save(checkpoint: &Checkpoint, changed: &Changed, output: &Path, notes: Notes) -> Result<()> {
    let rewrite = Rewrite::open(checkpoint, output, notes, (Resume::Auto, Existing::Overwrite))?;
    rewrite.run(&|name, stored| replaced(changed, name, stored), &mut |_, _| ())?;
    Ok(())
}

/// The tensor with other values, where it has some: in its own layout, 16 bits for integers without a mask.
pub(super) fn replaced(changed: &Changed, name: &str, stored: Stored) -> Result<Stored> {
    match (changed.get(name), stored) {
        (Some(values), Stored::Vector(_)) => Ok(values.clone().into()),
        (None, Stored::Vector(vector)) => Ok(Stored::Vector(vector)),
        (None, Stored::Matrix(weight)) => storable(weight).map(Stored::Matrix),
        (Some(values), Stored::Matrix(weight)) => {
            let layout = match weight {
                Weight::Ggml(_) | Weight::Packed(_) | Weight::Sieved { .. } => weight.widened()?,
                other => other,
            };
            layout.with_values(values).map(Stored::Matrix)
        }
    }
}

/// The tensors of the trained decoder that are not what they were, by name. Low-rank additions that are kept
/// apart are not among them.
pub fn changed(
    checkpoint: &Checkpoint,
    ops: &dyn Ops,
    plan: &Plan,
    parameters: &Parameters,
) -> Result<Changed> {
    let config = checkpoint.config();
    let names = config.architecture.family().names;
    let mut all = Changed::new();
    for (index, block) in plan.blocks.iter().enumerate() {
        all.extend(changed_block(checkpoint, ops, (block, index), parameters)?);
    }
    if let Some(plan) = plan.final_norm {
        put_norm(&mut all, config, (names.final_norm, plan), parameters);
    }
    let tables = [(plan.embedding, names.embedding), (plan.head, names.head)];
    for (id, name) in tables.into_iter().filter_map(|(id, name)| Some((id?, name))) {
        all.insert(format!("{name}.weight"), parameters.values(id).to_vec());
    }
    Ok(all)
}

/// The same of one block.
pub(super) fn changed_block(
    checkpoint: &Checkpoint,
    ops: &dyn Ops,
    (block, index): (&BlockPlan, usize),
    parameters: &Parameters,
) -> Result<Changed> {
    let config = checkpoint.config();
    let mut all = Changed::new();
    for role in NormRole::ALL {
        if let Some(plan) = block.norm(role) {
            put_norm(&mut all, config, (&role.name(config, index), plan), parameters);
        }
    }
    for role in Role::ALL {
        let name = role.name(config, index);
        let tensor = format!("{name}.weight");
        let linear = block.linear(role);
        if let Some(bias) = linear.bias {
            all.insert(format!("{name}.bias"), parameters.values(bias).to_vec());
        }
        let info = checkpoint.tensors().tensors().get(&tensor);
        let Some(&[rows, cols]) = info.map(|info| &info.shape[..]) else { continue };
        if let Some(values) = linear.weight.values((rows, cols), (ops, parameters), |v| v)? {
            all.insert(tensor, values);
        }
    }
    Ok(all)
}

/// Norms are written as their family stores them: Gemma's without the one that is added when they are read.
fn put_norm(all: &mut Changed, config: &Config, (name, plan): (&str, NormPlan), parameters: &Parameters) {
    let offset = if config.architecture.family().norms == NormStorage::MinusOne { 1.0 } else { 0.0 };
    let scale = parameters.values(plan.scale).iter().map(|w| w - offset).collect();
    all.insert(format!("{name}.weight"), scale);
    if let Some(bias) = plan.bias {
        all.insert(format!("{name}.bias"), parameters.values(bias).to_vec());
    }
}
