//! Reads an artifact, or another program's compressed-tensors `pack-quantized` folder, as
//! a [`TensorSource`]. Everything in the folder is hostile input; tensors are read when
//! they are asked for.
//!
//! Knows no architecture. Whether the sidecar is there is told, never papered over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::Value;
use tamis_kernels::pack::HalfData;

use super::codec::{decode, read_slot};
use super::container::{Container, Slot};
use super::entry::{Stored, TensorEntry, Vector};
use super::foreign;
use super::manifest::{BASE, MANIFEST, Manifest, ORTHO, read_json};
use super::work::WORK;
use crate::error::{Error, Kind, Result};
use crate::load::{Ortho, TensorInfo, TensorSource};
use crate::model::Weight;

/// A tensor of an opened folder.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) entry: TensorEntry,
    /// Index into the base files.
    pub(super) file: usize,
}

/// The lazily read tensors of an artifact.
#[derive(Debug)]
pub struct ArtifactSource {
    folder: PathBuf,
    base: Vec<Container>,
    sidecar: Option<Container>,
    ortho: Ortho,
    places: BTreeMap<String, Place>,
    tensors: BTreeMap<String, TensorInfo>,
    manifest: Option<Manifest>,
}

/// Whether `folder` is an artifact or another program's packed folder, finished or not.
pub fn is_artifact(folder: &Path) -> bool {
    let label = |bytes: &[u8]| {
        let value = serde_json::from_slice::<Value>(bytes).ok();
        value.is_some_and(|value| value["format"] == "tamis")
    };
    let labelled = match read_json(&folder.join(MANIFEST)) {
        Ok(bytes) => label(&bytes),
        // Whoever opens the artifact hears why its manifest cannot be read.
        Err(e) => e.kind() != Kind::Missing,
    };
    labelled || folder.join(WORK).is_dir() || foreign::is_packed(folder)
}

impl ArtifactSource {
    /// Opens a folder and checks its structure: every tensor of the manifest is in its file
    /// with the right type and shape, and nothing else is.
    pub fn open(folder: &Path) -> Result<Self> {
        match Manifest::read(folder) {
            Ok(manifest) => Self::open_own(folder, manifest),
            Err(e) if folder.join(MANIFEST).exists() => Err(e),
            Err(_) if folder.join(WORK).is_dir() => Err(Error::bad_data("this artifact is not finished")
                .file(folder)
                .next("run the command that writes it again: it takes over what is there")),
            Err(_) => Self::open_foreign(folder),
        }
    }

    fn open_own(folder: &Path, manifest: Manifest) -> Result<Self> {
        let base = Container::open(&folder.join(BASE))?;
        let made_with = manifest.tensors.iter().any(|t| t.encoding.ortho_entries().is_some());
        let path = folder.join(ORTHO);
        let ortho = match (made_with, path.exists()) {
            (false, false) => Ortho::None,
            (true, true) => Ortho::Present,
            (true, false) => Ortho::Absent,
            (false, true) => {
                return Err(Error::bad_data("a sidecar that the manifest knows nothing of").file(path));
            }
        };
        let sidecar = (ortho == Ortho::Present).then(|| Container::open(&path)).transpose()?;
        let places = |entry: &TensorEntry| {
            let encoding = if sidecar.is_some() { entry.encoding } else { entry.encoding.base() };
            (entry.name.clone(), Place { entry: TensorEntry { encoding, ..entry.clone() }, file: 0 })
        };
        let places = manifest.tensors.iter().map(places).collect();
        let source = Self {
            folder: folder.into(),
            base: vec![base],
            sidecar,
            ortho,
            places,
            tensors: BTreeMap::new(),
            manifest: Some(manifest),
        };
        source.check_own()?;
        source.with_infos()
    }

    fn open_foreign(folder: &Path) -> Result<Self> {
        let (base, places) = foreign::open(folder)?;
        let source = Self {
            folder: folder.into(),
            base,
            sidecar: None,
            ortho: Ortho::None,
            places,
            tensors: BTreeMap::new(),
            manifest: None,
        };
        source.with_infos()
    }

    /// Both files hold exactly the tensors that the manifest lists.
    fn check_own(&self) -> Result<()> {
        let mut known: [BTreeSet<String>; 2] = Default::default();
        for Place { entry, .. } in self.places.values() {
            let slots = entry.slots().map_err(|e| e.file(self.folder.join(MANIFEST)))?;
            for slot in &slots.base {
                self.base[0].check(slot)?;
                known[0].insert(slot.name.clone());
            }
            for (slot, file) in slots.ortho.iter().zip(self.sidecar.iter().cycle()) {
                file.check(slot)?;
                known[1].insert(slot.name.clone());
            }
        }
        for (known, file) in known.iter().zip(self.base.first().into_iter().chain(&self.sidecar)) {
            if let Some((name, entry)) = file.entries().iter().find(|(n, _)| !known.contains(*n)) {
                return Err(Error::bad_data("the manifest does not list it")
                    .file(file.path())
                    .tensor(name)
                    .offset(entry.offset));
            }
        }
        Ok(())
    }

    fn with_infos(mut self) -> Result<Self> {
        for (name, Place { entry, file }) in &self.places {
            let file = &self.base[*file];
            let mut bytes = 0;
            let slots = entry.slots().map_err(|e| e.or_file(file.path()).tensor(name))?;
            for slot in slots.all() {
                let container =
                    if slot.name.contains(".ortho_") { self.sidecar.as_ref() } else { Some(file) };
                bytes += container.map_or(Ok(0), |c| c.entry(&slot.name).map(|e| e.bytes))?;
            }
            let info = TensorInfo {
                dtype: entry.kind(),
                shape: entry.shape.clone(),
                bytes,
                file: file.path().to_path_buf(),
            };
            self.tensors.insert(name.clone(), info);
        }
        Ok(self)
    }

    /// The manifest; none for another program's folder.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// All tensors as they are served.
    pub fn entries(&self) -> impl Iterator<Item = &TensorEntry> {
        self.places.values().map(|p| &p.entry)
    }
    /// The opened files: base first, then the sidecar.
    pub(super) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.base.iter().chain(&self.sidecar)
    }

    /// Reads a tensor in the form it is stored.
    pub fn read(&self, name: &str) -> Result<Stored> {
        let missing = || Error::bad_data("no such tensor").file(&self.folder).tensor(name);
        let Place { entry, file } = self.places.get(name).ok_or_else(missing)?;
        let base = &self.base[*file];
        let read = |slot: &Slot| match &self.sidecar {
            Some(sidecar) if slot.name.contains(".ortho_") => read_slot(sidecar, slot),
            _ if self.manifest.is_none() => foreign::read(base, slot),
            _ => read_slot(base, slot),
        };
        decode(name, &entry.shape, entry.encoding, &read).map_err(|e| e.or_file(base.path()))
    }
}

impl TensorSource for ArtifactSource {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        match self.read(name)? {
            Stored::Matrix(weight) => Ok(weight),
            Stored::Vector(_) => Err(wrong(&self.folder, name, "is a vector, not a matrix")),
        }
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        Ok(match self.read(name)? {
            Stored::Vector(Vector::F32(values)) => values,
            Stored::Vector(Vector::Half(HalfData::F16(v))) => v.into_iter().map(f16::to_f32).collect(),
            Stored::Vector(Vector::Half(HalfData::Bf16(v))) => v.into_iter().map(bf16::to_f32).collect(),
            Stored::Matrix(_) => return Err(wrong(&self.folder, name, "is a matrix, not a vector")),
        })
    }

    fn ortho(&self) -> Ortho {
        self.ortho
    }
    fn ortho_entries(&self, name: &str) -> usize {
        self.places.get(name).and_then(|p| p.entry.encoding.ortho_entries()).unwrap_or(0)
    }
    fn is_pruned(&self, name: &str) -> bool {
        self.places.get(name).is_some_and(|p| p.entry.encoding.is_pruned())
    }
    fn files(&self) -> BTreeSet<PathBuf> {
        self.containers().map(|c| c.path().to_path_buf()).collect()
    }
}

fn wrong(folder: &Path, name: &str, problem: &str) -> Error {
    Error::bad_data(problem).file(folder).tensor(name)
}
