//! Writes an artifact part by part. Killed at any moment, the next run takes over the
//! finished parts and ends with the same bytes as an uninterrupted one.
//!
//! Parts lie in a work folder until [`Writer::finish`] streams them into
//! `model.safetensors` and `ortho.safetensors`; never more than one piece of one tensor
//! is in memory then. Knows nothing of how tensors were compressed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::{Container, Slot, file_order, header};
use super::entry::{Slots, Stored, TensorEntry};
use super::manifest::{BASE, CONFIG, FileEntry, MANIFEST, Manifest, ORTHO, is_plain_name, pretty};
use super::quantization;
use super::work::{IDENTITY, Identity, Part, WORK, Work};
use crate::disk::atomic::{self, Pending};
use crate::disk::digest::{CHUNK, Hasher, sha256};
use crate::disk::{self, create_folder};
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
    if resume == Resume::Auto && folder.join(WORK).join(IDENTITY).exists() {
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
    let work = folder.join(WORK);
    check_folder(folder, !work.join(IDENTITY).exists(), existing)?;
    match resume {
        Resume::Auto => Work::check_identity(&work, identity),
        Resume::Never => Ok(()),
    }
}

/// Throws away what an unfinished command has left in `folder`.
pub fn discard(folder: &Path) -> Result<()> {
    atomic::remove_folder(&folder.join(WORK), IDENTITY)
}

/// Where the previous manifest waits until its files are replaced.
const REPLACED: &str = "replaced.json";

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
        let fresh = !folder.join(WORK).exists();
        if let Err(refused) = check_folder(folder, fresh, existing) {
            discard_finished_work(folder, identity);
            return Err(refused);
        }
        let mut work = Work::lock(folder)?;
        // Once more under the lock: another run may have finished in between.
        check_folder(folder, !work.is_used(), existing)?;
        if resume == Resume::Never {
            work.clear()?;
        }
        work.resume(identity)?;
        atomic::remove_leftovers(folder)?;
        Ok(Self { folder: folder.to_path_buf(), identity: identity.clone(), work })
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

    /// Puts the parts together, writes the manifest and removes the work folder.
    pub fn finish(self, finish: Finish) -> Result<Manifest> {
        self.check_blocks()?;
        check_names(&finish.files)?;
        let parts = self.work.parts();
        let tensors: Vec<TensorEntry> = parts.values().flat_map(|r| r.tensors.clone()).collect();
        let mut manifest = Manifest::new(self.identity.clone(), tensors);
        for receipts in parts.values().map(|r| &r.receipts) {
            manifest.receipts.extend(receipts.clone());
        }
        self.set_previous_aside()?;
        let sources = Sources::open(&self.work)?;
        manifest.files.insert(BASE.into(), sources.merge(&self.folder.join(BASE), |s| s.base)?);
        if manifest.tensors.iter().any(|t| t.encoding.ortho_entries().is_some()) {
            manifest.files.insert(ORTHO.into(), sources.merge(&self.folder.join(ORTHO), |s| s.ortho)?);
        }
        drop(sources);
        let mut files = finish.files;
        files.insert(CONFIG.into(), config(finish.config, &manifest.tensors));
        for (name, bytes) in files {
            atomic::write(&self.folder.join(&name), &bytes)?;
            let entry = FileEntry { bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            manifest.files.insert(name, entry);
        }
        self.remove_replaced(&manifest)?;
        (manifest.recipe, manifest.seed, manifest.run) = (finish.recipe, finish.seed, finish.run);
        atomic::write(&self.folder.join(MANIFEST), &manifest.to_bytes())?;
        self.work.remove()?;
        Ok(manifest)
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

    /// From here to the new manifest the folder is incomplete and must look like it.
    fn set_previous_aside(&self) -> Result<()> {
        let manifest = self.folder.join(MANIFEST);
        if manifest.exists() {
            let aside = self.work.path(REPLACED);
            fs::rename(&manifest, &aside).map_err(|e| Error::writing(&aside, &e))?;
            atomic::sync_folder(&manifest)?;
            atomic::sync_folder(&aside)?;
        }
        Ok(())
    }

    /// Removes files of the replaced artifact that the new one does not have: a sidecar left
    /// behind would otherwise be read on top of a base it does not belong to.
    fn remove_replaced(&self, new: &Manifest) -> Result<()> {
        let aside = self.work.path(REPLACED);
        if !aside.exists() {
            return Ok(());
        }
        let bytes = fs::read(&aside).map_err(|e| Error::reading(&aside, &e))?;
        let old: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_data(format!("not a manifest: {e}")).file(&aside))?;
        for name in old.files.keys().filter(|n| is_plain_name(n) && !new.files.contains_key(*n)) {
            atomic::remove(&self.folder.join(name))?;
        }
        Ok(())
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
    let entries = fs::read_dir(folder).map_err(|e| Error::reading(folder, &e))?;
    for entry in entries {
        let name = entry.map_err(|e| Error::reading(folder, &e))?.file_name();
        let name = name.to_string_lossy();
        let is_model = name == CONFIG || name.ends_with(".safetensors") || name.ends_with(".gguf");
        if fresh && is_model {
            return Err(Error::usage(format!("the folder holds another model ({name})"))
                .file(folder)
                .next("choose an empty output folder"));
        }
    }
    Ok(())
}

/// A run killed between its manifest and the removal of its work folder leaves the parts
/// behind. They are only removed when they are those of the finished artifact; a failure
/// costs disk space and nothing else, and the caller is about to report a refusal.
fn discard_finished_work(folder: &Path, identity: &Identity) {
    let finished = Manifest::read(folder).is_ok_and(|m| m.identity == *identity);
    if finished && folder.join(WORK).exists() {
        Work::lock(folder).and_then(|mut work| work.resume(identity).and_then(|()| work.remove())).ok();
    }
}

fn check_names(files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let ours = [BASE, ORTHO, CONFIG, MANIFEST];
    match files.keys().find(|n| !is_plain_name(n) || ours.contains(&n.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::defect(format!("an artifact cannot hold an extra file called {name:?}"))),
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
