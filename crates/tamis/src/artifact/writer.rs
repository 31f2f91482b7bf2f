//! Writes an artifact part by part. Killed at any moment, the next run takes over the
//! finished parts and ends with the same bytes as an uninterrupted one.
//!
//! Parts lie in a work folder until [`Writer::stage`] streams them into `model.safetensors` and `ortho.safetensors`
//! beside them; never more than one piece of one tensor is in memory then. [`Staged::publish`] puts the finished files
//! in place, all at once: until then what was there before is whole. Knows nothing of how tensors were compressed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::{Container, Slot, file_order, header};
use super::entry::{Slots, Stored, TensorEntry};
use super::manifest::{BASE, CONFIG, FileEntry, MANIFEST, Manifest, ORTHO, pretty};
use super::quantization;
use super::work::{IDENTITY, Identity, Part, WORK, Work};
use crate::disk::atomic::{self, Pending};
use crate::disk::digest::{CHUNK, Hasher, sha256};
use crate::disk::swap::{NEXT, Swap, roll_forward};
use crate::disk::{self, create_folder, inside, is_plain_name, list};
use crate::error::{Error, Result};

/// What to do with unfinished work of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// Take over what is finished; refuse where it belongs to other inputs.
    #[default]
    Auto,
    /// Discard it.
    Never,
}

/// What to do with a finished artifact in the output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it alone and fail.
    #[default]
    Refuse,
    /// Replace it once the new one is finished.
    Overwrite,
}

/// What an artifact holds besides its tensors.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// `config.json` of the source model; its `quantization_config` is replaced.
    pub config: serde_json::Map<String, Value>,
    /// Further files by name: `tokenizer.json`, `chat_template.jinja`, ...
    pub files: BTreeMap<String, Vec<u8>>,
    /// The resolved recipe.
    pub recipe: Value,
    /// Seed of every random choice.
    pub seed: u64,
    /// Facts of this run (time, peak memory).
    pub run: Value,
}

/// An artifact that is being written.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    identity: Identity,
    work: Work,
}

/// Errors where a model cannot be begun in `folder`: what [`Writer::create_or_resume`] would say at once, for those
/// that write only after long work.
pub fn check_free(folder: &Path, (resume, existing): (Resume, Existing)) -> Result<()> {
    disk::check_folder(folder)?;
    if !folder.exists() {
        return Ok(());
    }
    check_folder(folder, true, existing)?;
    if resume == Resume::Auto && inside(folder, WORK)?.join(IDENTITY).exists() {
        return Err(Error::usage("the folder holds unfinished work of another command")
            .file(folder)
            .next("give that command again, choose another output folder, or discard it: --resume never"));
    }
    Ok(())
}

/// Errors where work of `identity` can neither be begun in `folder` nor gone on with: what
/// [`Writer::create_or_resume`] would say, without a trace.
pub fn check_resumable(
    folder: &Path,
    identity: &Identity,
    (resume, existing): (Resume, Existing),
) -> Result<()> {
    disk::check_folder(folder)?;
    if !folder.exists() {
        return Ok(());
    }
    let work = inside(folder, WORK)?;
    check_folder(folder, !work.join(IDENTITY).exists(), existing)?;
    match resume {
        Resume::Auto => Work::check_identity(&work, identity),
        Resume::Never => Ok(()),
    }
}

/// Throws away what an unfinished command has left in `folder`.
pub fn discard(folder: &Path) -> Result<()> {
    finish_swap(folder)?;
    disk::discard(folder, WORK, IDENTITY)
}

/// Ends what a run of `identity` has begun to end: puts its files in place, removes its work folder. Gives its manifest
/// where it was killed on the way; nothing is left for such a run to do.
pub fn finish_interrupted(
    folder: &Path,
    identity: &Identity,
    (resume, existing): (Resume, Existing),
) -> Result<Option<Manifest>> {
    if !inside(folder, WORK)?.exists() {
        return Ok(None);
    }
    let swapped = finish_swap(folder)?;
    let manifest = Manifest::read(folder).ok().filter(|manifest| manifest.identity == *identity);
    // Asked to replace the very same model, a run is done once its own is in place: not before.
    let done = swapped || existing == Existing::Refuse || !folder.join(WORK).join(IDENTITY).exists();
    if manifest.is_none() || !done || resume == Resume::Never {
        return Ok(None);
    }
    disk::discard(folder, WORK, IDENTITY)?;
    Ok(manifest)
}

/// Finishes the swap of a run that was killed in the middle of it, whichever run it was: neither its model nor the one
/// before is whole until then. Gives whether there was one.
fn finish_swap(folder: &Path) -> Result<bool> {
    if inside(folder, WORK)?.exists() {
        roll_forward(folder, Work::lock(folder)?.folder())
    } else {
        Ok(false)
    }
}

/// A complete artifact that lies in the work folder of its writer.
#[derive(Debug)]
pub struct Staged {
    folder: PathBuf,
    work: Work,
    manifest: Manifest,
}

impl Staged {
    /// Where it can be read.
    pub fn path(&self) -> PathBuf {
        self.work.folder().path().join(NEXT)
    }

    /// Puts it in its final place, where it replaces what was there, and removes the work folder.
    pub fn publish(self) -> Result<Manifest> {
        let swap = Swap::of(&self.folder, self.work.folder())?;
        // A sidecar left behind would be read on top of a base that it does not belong to.
        let old = match Manifest::read(&self.folder) {
            Ok(old) => old.files.into_keys().filter(|name| !self.manifest.files.contains_key(name)).collect(),
            Err(_) => Vec::new(),
        };
        swap.commit(MANIFEST, old)?;
        self.work.remove()?;
        Ok(self.manifest)
    }
}

impl Writer {
    /// Opens `folder` for writing, creating it where it is missing, and locks it.
    ///
    /// Errors: another process writes it; it holds something that is not to be replaced;
    /// its unfinished work belongs to other inputs.
    pub fn create_or_resume(
        folder: &Path,
        identity: &Identity,
        (resume, existing): (Resume, Existing),
    ) -> Result<Self> {
        create_folder(folder)?;
        finish_interrupted(folder, identity, (resume, existing))?;
        let fresh = !inside(folder, WORK)?.exists();
        check_folder(folder, fresh, existing)?;
        let mut work = Work::lock(folder)?;
        // Once more under the lock: another run may have finished in between.
        check_folder(folder, !work.is_used(), existing)?;
        if resume == Resume::Never {
            work.clear()?;
        }
        work.resume(identity)?;
        Ok(Self { folder: folder.to_path_buf(), identity: identity.clone(), work })
    }

    /// Takes over only the finished parts that hold exactly the tensors that they are to hold.
    pub fn retain(&mut self, names: &dyn Fn(Part) -> BTreeSet<String>) {
        self.work.retain(names);
    }

    /// Parts that are finished and need not be computed again.
    pub fn finished(&self) -> BTreeSet<Part> {
        self.work.parts().keys().copied().collect()
    }

    /// Stores a part. When this returns, a crash does not lose it.
    pub fn put(
        &mut self,
        part: Part,
        tensors: &[(String, Stored)],
        receipts: BTreeMap<String, Value>,
    ) -> Result<()> {
        if self.work.parts().contains_key(&part) {
            return Err(Error::defect(format!("{part} is already finished")).file(&self.folder));
        }
        self.work.put(part, tensors, receipts)
    }

    /// Gives back the tensors of a finished part, to replay activations through them.
    pub fn read(&self, part: Part) -> Result<Vec<(String, Stored)>> {
        self.work.read(part)
    }

    /// Puts the parts together, puts them in place and removes the work folder.
    pub fn finish(self, finish: Finish) -> Result<Manifest> {
        self.stage(finish)?.publish()
    }

    /// Puts the parts together inside the work folder; what is in the output folder stays as it is.
    pub fn stage(self, finish: Finish) -> Result<Staged> {
        self.check_blocks()?;
        check_names(&finish.files)?;
        let parts = self.work.parts();
        let tensors: Vec<TensorEntry> = parts.values().flat_map(|r| r.tensors.clone()).collect();
        let mut manifest = Manifest::new(self.identity.clone(), tensors);
        for receipts in parts.values().map(|r| &r.receipts) {
            manifest.receipts.extend(receipts.clone());
        }
        let swap = Swap::begin(&self.folder, self.work.folder())?;
        let sources = Sources::open(&self.work)?;
        manifest.files.insert(BASE.into(), sources.merge(&swap.next().join(BASE), |s| s.base)?);
        if manifest.tensors.iter().any(|t| t.encoding.ortho_entries().is_some()) {
            manifest.files.insert(ORTHO.into(), sources.merge(&swap.next().join(ORTHO), |s| s.ortho)?);
        }
        drop(sources);
        let mut files = finish.files;
        files.insert(CONFIG.into(), config(finish.config, &manifest.tensors));
        for (name, bytes) in files {
            atomic::write(&swap.next().join(&name), &bytes)?;
            let entry = FileEntry { bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            manifest.files.insert(name, entry);
        }
        (manifest.recipe, manifest.seed, manifest.run) = (finish.recipe, finish.seed, finish.run);
        atomic::write(&swap.next().join(MANIFEST), &manifest.to_bytes())?;
        drop(swap);
        Ok(Staged { folder: self.folder, work: self.work, manifest })
    }

    fn check_blocks(&self) -> Result<()> {
        let blocks = self.finished().into_iter().filter_map(|part| match part {
            Part::Block(index) => Some(index),
            _ => None,
        });
        match blocks.enumerate().find(|(expected, index)| expected != index) {
            None => Ok(()),
            Some((missing, _)) => {
                Err(Error::defect(format!("{} was never stored", Part::Block(missing))).file(&self.folder))
            }
        }
    }
}

/// Refuses folders whose content would be lost. `fresh`: no unfinished run owns it.
fn check_folder(folder: &Path, fresh: bool, existing: Existing) -> Result<()> {
    if folder.join(MANIFEST).exists() {
        // Anything but a readable manifest of ours is somebody else's file.
        Manifest::read(folder).map_err(|e| e.next("choose another output folder"))?;
        return match existing {
            Existing::Overwrite => Ok(()),
            Existing::Refuse => Err(Error::usage("the folder already holds a complete artifact")
                .file(folder)
                .next("`--overwrite` replaces it; another output folder keeps it")),
        };
    }
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_model = name == CONFIG || name.ends_with(".safetensors") || name.ends_with(".gguf");
        if fresh && is_model {
            return Err(Error::usage(format!("the folder holds another model ({name})"))
                .file(folder)
                .next("choose an empty output folder"));
        }
    }
    Ok(())
}

fn check_names(files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let ours = [BASE, ORTHO, CONFIG, MANIFEST];
    match files.keys().find(|n| !is_plain_name(n) || ours.contains(&n.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("an artifact cannot hold an extra file called {name:?}"))
            .next("give it another name")),
    }
}

fn config(mut config: serde_json::Map<String, Value>, tensors: &[TensorEntry]) -> Vec<u8> {
    config.remove("quantization_config");
    if let Some(description) = quantization::describe(tensors) {
        config.insert("quantization_config".into(), description);
    }
    pretty(&config)
}

/// All opened parts.
struct Sources<'a> {
    parts: Vec<(Container, &'a [TensorEntry])>,
}

impl<'a> Sources<'a> {
    fn open(work: &'a Work) -> Result<Self> {
        let open = |(&part, record): (&Part, &'a super::work::Record)| {
            Ok((work.open(part)?, record.tensors.as_slice()))
        };
        Ok(Self { parts: work.parts().iter().map(open).collect::<Result<_>>()? })
    }

    /// Streams the slots that `select` picks into one file.
    fn merge(&self, target: &Path, select: impl Fn(Slots) -> Vec<Slot>) -> Result<FileEntry> {
        let mut slots = Vec::new();
        let mut origin = BTreeMap::new();
        for (container, entries) in &self.parts {
            for entry in *entries {
                for slot in select(entry.slots()?) {
                    let expected = entry.sha256.get(&slot.name).map(String::as_str);
                    if origin.insert(slot.name.clone(), (container, expected)).is_some() {
                        return Err(Error::defect("stored in two parts").tensor(&slot.name));
                    }
                    slots.push(slot);
                }
            }
        }
        file_order(&mut slots);
        let head = header(&slots);
        let bytes = head.len() as u64 + slots.iter().map(|s| s.bytes() as u64).sum::<u64>();
        let mut out = Output { file: Pending::create(target, bytes)?, hasher: Hasher::default() };
        out.append(&head)?;
        for slot in &slots {
            let (container, expected) = origin[&slot.name];
            out.copy(container, slot, expected)?;
        }
        out.file.commit()?;
        Ok(FileEntry { bytes, sha256: out.hasher.hex() })
    }
}

struct Output {
    file: Pending,
    hasher: Hasher,
}

impl Output {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.append(bytes)
    }

    /// Copies a tensor in pieces and compares its hash with the one taken when it was put.
    fn copy(&mut self, from: &Container, slot: &Slot, expected: Option<&str>) -> Result<()> {
        let entry = from.check(slot)?;
        let mut own = Hasher::default();
        from.stream(entry, CHUNK, |piece| {
            own.update(piece);
            self.append(piece)
        })?;
        if expected != Some(own.hex().as_str()) {
            return Err(Error::bad_data("changed on disk after it was written")
                .file(from.path())
                .tensor(&slot.name)
                .offset(entry.offset)
                .next("run the same command again; if it happens again, suspect the disk"));
        }
        Ok(())
    }
}
