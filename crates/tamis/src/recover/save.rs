//! A trained model as a folder: trained tensors in the layout and under the mask that they came with,
//! everything else as it was. Knows no training.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::parameters::Parameters;
use super::plan::{BlockPlan, NormPlan, Plan};
use crate::artifact::{Existing, Finish, Identity, Part, Resume, Stored, Writer};
use crate::error::Result;
use crate::load::Checkpoint;
use crate::model::architecture::NormStorage;
use crate::model::block::{NormRole, Role};
use crate::model::{Config, Weight};
use crate::ops::Ops;

/// Tensors that differ from those of the checkpoint.
pub type Changed = BTreeMap<String, Vec<f32>>;

/// What is written besides tensors.
#[derive(Debug, Clone)]
pub struct Notes {
    /// Digest of everything that decides the bytes.
    pub identity: String,
    /// How the model was made, for its manifest.
    pub recipe: Value,
    /// Seed of the run.
    pub seed: u64,
}

/// Writes `checkpoint` with other values in place of what was trained.
pub fn save(checkpoint: &Checkpoint, changed: &Changed, output: &Path, notes: Notes) -> Result<()> {
    let mut writer = open(checkpoint, output, &notes)?;
    for part in parts(checkpoint) {
        if !writer.finished().contains(&part) {
            writer.put(part, &tensors(checkpoint, part, changed)?, BTreeMap::new())?;
        }
    }
    finish(checkpoint, writer, notes)
}

/// The folder of a run; parts that are there already are those of the same run.
pub(super) fn open(checkpoint: &Checkpoint, output: &Path, notes: &Notes) -> Result<Writer> {
    let identity = Identity::new(notes.identity.clone(), checkpoint.fingerprint()?, None);
    Writer::create_or_resume(output, &identity, (Resume::Auto, Existing::Overwrite))
}

/// All parts of a model, in their order.
pub(super) fn parts(checkpoint: &Checkpoint) -> impl Iterator<Item = Part> {
    let blocks = (0..checkpoint.config().layers.len()).map(Part::Block);
    std::iter::once(Part::Embedding).chain(blocks).chain([Part::Head])
}

/// The tensors of one part.
pub(super) fn tensors(
    checkpoint: &Checkpoint,
    part: Part,
    changed: &Changed,
) -> Result<Vec<(String, Stored)>> {
    let names = checkpoint.config().architecture.family().names;
    let prefix = format!("{}.", names.block);
    let crown = [Some(names.final_norm), names.project_out, Some(names.head)];
    let part_of = |name: &str| {
        let index = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next()?.parse().ok());
        let is_crown =
            crown.iter().flatten().any(|n| name.strip_prefix(n).is_some_and(|r| r.starts_with('.')));
        index.map_or(if is_crown { Part::Head } else { Part::Embedding }, Part::Block)
    };
    let own = checkpoint.tensors().tensors().keys().filter(|name| part_of(name) == part);
    own.map(|name| Ok((name.clone(), stored(checkpoint, name, changed)?))).collect()
}

/// Puts the parts together.
pub(super) fn finish(checkpoint: &Checkpoint, writer: Writer, notes: Notes) -> Result<()> {
    writer.finish(Finish {
        config: checkpoint.hf_config()?,
        files: checkpoint.text_files()?,
        recipe: notes.recipe,
        seed: notes.seed,
        run: Value::Null,
    })?;
    Ok(())
}

fn stored(checkpoint: &Checkpoint, name: &str, changed: &Changed) -> Result<Stored> {
    let source = checkpoint.tensors();
    let values = changed.get(name);
    let info = &source.tensors()[name];
    if info.shape.len() == 1 {
        return values.map_or_else(|| source.vector(name), |v| Ok(v.clone())).map(Stored::from);
    }
    let weight = source.weight(name)?;
    // A GGUF file's own blocks have no place in a Hugging Face folder.
    let plain = |weight: Weight| match weight {
        Weight::Ggml(_) => weight.to_half().map(Weight::Half),
        other => Ok(other),
    };
    let weight = match values {
        None => plain(weight),
        Some(values) => match weight {
            Weight::Packed(_) | Weight::Sieved { .. } => {
                weight.to_half().map(Weight::Half)?.with_values(values)
            }
            other => plain(other)?.with_values(values),
        },
    };
    weight.map(Stored::Matrix).map_err(|e| e.tensor(name))
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
        if let Some(values) = linear.weight.values((rows, cols), ops, parameters)? {
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
