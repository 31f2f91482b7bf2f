//! A model written again, tensor by tensor, with some of them changed: what merging, mending and exporting
//! have in common. One part is in memory at a time. Knows no reason for a change.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::publish::publish;
use crate::artifact::{
    Existing, Finish, Identity, Manifest, Part, Resume, Stored, Writer, finish_interrupted,
};
use crate::error::Result;
use crate::load::Checkpoint;
use crate::model::Weight;

/// What is written besides tensors.
#[derive(Debug, Clone)]
pub struct Notes {
    /// Digest of everything besides the model that decides the bytes.
    pub identity: String,
    /// How the model was made, for its manifest.
    pub recipe: Value,
    /// Seed of the run.
    pub seed: u64,
}

/// A model on its way to another folder.
#[derive(Debug)]
pub struct Rewrite<'a> {
    checkpoint: &'a Checkpoint,
    writer: Writer,
    notes: Notes,
}

/// Writes a whole model with `change` made to each of its tensors; `watch` sees how many of how many parts are done.
/// Where a run like this was killed after all but the end of it, that is all that is done.
pub fn rewrite(
    checkpoint: &Checkpoint,
    (output, policy): (&Path, (Resume, Existing)),
    notes: Notes,
    change: &dyn Fn(&str, Stored) -> Result<Stored>,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Manifest> {
    if let Some(manifest) = finish_interrupted(output, &notes.identity(checkpoint)?, policy)? {
        return Ok(manifest);
    }
    let mut rewrite = Rewrite::open(checkpoint, output, notes, policy)?;
    let parts = rewrite.parts();
    for (index, part) in parts.iter().enumerate() {
        if !rewrite.has(*part) {
            rewrite.put(*part, change)?;
        }
        watch(index + 1, parts.len());
    }
    rewrite.finish()
}

impl Notes {
    /// Identity of a run that makes this of `checkpoint`.
    pub fn identity(&self, checkpoint: &Checkpoint) -> Result<Identity> {
        Ok(Identity::new(self.identity.clone(), checkpoint.fingerprint()?, None))
    }
}

impl<'a> Rewrite<'a> {
    /// Opens `output`; parts that are there already are those of the same run.
    pub fn open(
        checkpoint: &'a Checkpoint,
        output: &Path,
        notes: Notes,
        policy: (Resume, Existing),
    ) -> Result<Self> {
        checkpoint.check_carried()?;
        let mut writer = Writer::create_or_resume(output, &notes.identity(checkpoint)?, policy)?;
        let names = checkpoint.tensors().tensors().keys();
        writer.retain(&|part| {
            names.clone().filter(|name| part_of(checkpoint, name) == part).cloned().collect()
        });
        Ok(Self { checkpoint, writer, notes })
    }

    /// All parts, in their order.
    pub fn parts(&self) -> Vec<Part> {
        let blocks = (0..self.checkpoint.config().layers.len()).map(Part::Block);
        std::iter::once(Part::Embedding).chain(blocks).chain([Part::Head]).collect()
    }

    /// Whether a part is written already.
    pub fn has(&self, part: Part) -> bool {
        self.writer.finished().contains(&part)
    }

    /// Writes a part with `change` made to each of its tensors.
    pub fn put(&mut self, part: Part, change: &dyn Fn(&str, Stored) -> Result<Stored>) -> Result<()> {
        let source = self.checkpoint.tensors();
        let mut tensors = Vec::new();
        for (name, info) in source.tensors().iter().filter(|(name, _)| part_of(self.checkpoint, name) == part)
        {
            let stored = match info.shape.len() {
                1 => source.vector(name)?.into(),
                _ => source.weight(name)?.into(),
            };
            tensors.push((name.clone(), change(name, stored).map_err(|e| e.tensor(name))?));
        }
        self.writer.put(part, &tensors, BTreeMap::new())
    }

    /// The tensors of a part as they were written.
    pub fn read(&self, part: Part) -> Result<Vec<(String, Stored)>> {
        self.writer.read(part)
    }

    /// Puts the parts together.
    pub fn finish(self) -> Result<Manifest> {
        let finish = Finish {
            config: self.checkpoint.hf_config()?,
            files: self.checkpoint.text_files()?,
            recipe: self.notes.recipe,
            seed: self.notes.seed,
            run: Value::Null,
        };
        publish(self.writer, finish)
    }
}

/// The part that a tensor belongs to.
fn part_of(checkpoint: &Checkpoint, name: &str) -> Part {
    let names = checkpoint.config().architecture.family().names;
    let of_block = name.strip_prefix(names.block).and_then(|rest| rest.strip_prefix('.'));
    if let Some(index) = of_block.and_then(|rest| rest.split('.').next()?.parse().ok()) {
        return Part::Block(index);
    }
    let crown = [Some(names.final_norm), names.project_out, Some(names.head)];
    let is_crown =
        crown.iter().flatten().any(|n| name.strip_prefix(n).is_some_and(|rest| rest.starts_with('.')));
    if is_crown { Part::Head } else { Part::Embedding }
}

/// A weight in a form that a folder can hold: a GGUF file's own blocks become 16 bits.
pub fn storable(weight: Weight) -> Result<Weight> {
    match weight {
        Weight::Ggml(_) => weight.to_half().map(Weight::Half),
        other => Ok(other),
    }
}
