//! Bytes to a checked [`Checkpoint`]: Hugging Face folders, GGUF files and our own
//! artifacts. Everything read here is hostile input. Tensors are read lazily by
//! their Hugging Face name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub mod adapter;
mod adapter_config;
pub mod chat;
pub mod examine;
pub(crate) mod expected;
mod fingerprint;
pub mod folder;
pub mod gguf;
mod hub;
mod layers;
mod open;
mod originals;
pub mod safetensors;
mod sniff;
#[cfg(test)]
pub(crate) mod testdata;
pub mod tokenizer;
mod values;

pub use adapter::open_adapter;
pub use chat::{ChatTemplate, GenerationPrompt, Message};
pub use tokenizer::{AddSpecial, SpecialText, TextStream, Tokenizer};
pub(crate) use values::check_finite;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{Config, Weight};
use open::TextSide;

/// What the index of a checkpoint says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage type as its format writes it (`F32`, `BF16`, `Q4_1`, ...), or `int4-g64` and
    /// the like for a tensor of our artifact.
    pub dtype: String,
    /// Row-major shape, Hugging Face order (`[out, in]`).
    pub shape: Vec<usize>,
    /// Bytes on disk, all parts together.
    pub bytes: u64,
    /// File that holds the (first) bytes.
    pub file: PathBuf,
}

/// A set of named tensors that can be read one at a time.
pub trait TensorSource: Send + Sync + std::fmt::Debug {
    /// All tensors by Hugging Face name (`model.layers.0.mlp.up_proj.weight`). A quantised
    /// linear of our artifact is one entry under its `.weight` name.
    fn tensors(&self) -> &BTreeMap<String, TensorInfo>;
    /// Reads a matrix in the form it is stored. Errors: missing, wrong shape, NaN or Inf.
    fn weight(&self, name: &str) -> Result<Weight>;
    /// Reads a one-dimensional tensor as f32. Errors as for `weight`.
    fn vector(&self, name: &str) -> Result<Vec<f32>>;
    /// Refuses, from the index alone, a tensor of a type that `weight` or `vector` would refuse.
    fn check(&self, _name: &str) -> Result<()> {
        Ok(())
    }
    /// Whether an ortho stream lies on top of the base.
    fn ortho(&self) -> Ortho {
        Ortho::None
    }
    /// Entries of a tensor's ortho stream.
    fn ortho_entries(&self, _name: &str) -> usize {
        0
    }
    /// Whether weights of a tensor are left out.
    fn is_pruned(&self, _name: &str) -> bool {
        false
    }
    /// All files that hold tensors.
    fn files(&self) -> BTreeSet<PathBuf> {
        self.tensors().values().map(|info| info.file.clone()).collect()
    }
}

/// Whether an ortho stream is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ortho {
    /// The model was made without one.
    None,
    /// The sidecar is there.
    Present,
    /// The model was made with one and the sidecar has been taken away: only the base is served.
    Absent,
}

impl TensorInfo {
    /// Refuses any other shape than the one that the configuration asks for.
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::bad_data(format!("shape {:?}; the configuration asks for {shape:?}", self.shape))
            .file(&self.file)
            .tensor(name)
            .next("configuration and weights are not of the same model: fetch both again"))
    }
}

/// Where a model lies that is named as for [`Checkpoint::open`]; whether it is there is not asked. Errors: a name of
/// the hub that is not in the local cache.
pub fn locate(spec: &str) -> Result<PathBuf> {
    hub::resolve(spec)
}

/// An opened model: configuration, text side and lazily read tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    tensors: Box<dyn TensorSource>,
    text: TextSide,
    /// Of all bytes, once somebody has asked.
    digest: OnceLock<String>,
}

impl Checkpoint {
    /// Opens a model: a Hugging Face folder, a GGUF file, an artifact of tamis, or
    /// `hf://org/name[@revision]` from the local cache. Decided by content. No weight is
    /// read yet.
    pub fn open(spec: &str) -> Result<Self> {
        open::open(spec)
    }
    /// Puts a checkpoint together from parts that a reader has checked; tokenizer and
    /// chat template are looked for in the folder `path`.
    pub fn new(path: PathBuf, config: Config, tensors: Box<dyn TensorSource>) -> Self {
        Self { text: TextSide::Folder(path.clone()), path, config, tensors, digest: OnceLock::new() }
    }
    /// Reads the tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.text {
            TextSide::Folder(folder) => Tokenizer::from_hf_folder(folder),
            TextSide::Gguf(metadata) => {
                let tokenizer = Tokenizer::from_gguf(metadata).map_err(|e| e.or_file(&self.path))?;
                Ok(tokenizer.of_file(&self.path))
            }
        }
    }
    /// Reads the chat template; none where the model has none.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.text {
            TextSide::Folder(folder) => ChatTemplate::from_hf_folder(folder),
            TextSide::Gguf(metadata) => ChatTemplate::from_gguf(metadata, &self.path),
        }
    }
    /// A cheap identity: SHA-256 over name, size and first MiB of every file. Changes
    /// inside a file past that, at the same size, are not seen.
    pub fn fingerprint(&self) -> Result<String> {
        let weights = self.tensors.tensors().values().map(|t| t.file.clone());
        fingerprint::fingerprint(&self.path, weights)
    }
    /// An identity that no change escapes: reads all bytes of every file, the first time.
    pub fn digest(&self) -> Result<String> {
        if let Some(known) = self.digest.get() {
            return Ok(known.clone());
        }
        let weights = self.tensors.tensors().values().map(|t| t.file.clone());
        let digest = fingerprint::digest(&self.path, weights)?;
        Ok(self.digest.get_or_init(|| digest).clone())
    }
    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Shape and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// The tensors.
    pub fn tensors(&self) -> &dyn TensorSource {
        &*self.tensors
    }
}
