//! A LoRA adapter as Hugging Face PEFT keeps it: a folder with `adapter_config.json` and
//! `adapter_model.safetensors`, where the linear `NAME` has `base_model.model.NAME.lora_A.weight [r, in]`
//! and `base_model.model.NAME.lora_B.weight [out, r]`. Hostile input. Knows no decoder, only its shapes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::adapter_config::{AdapterConfig, Target};
use super::folder::SafetensorsSource;
use super::sniff::pickle_refusal;
use super::{TensorInfo, TensorSource};
use crate::disk::read_small;
use crate::error::{Error, Result};
use crate::model::block::Role;
use crate::model::{Adapter, Config, LowRank};
use crate::units::Alpha;

/// Settings of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Its matrices.
pub const ADAPTER_MODEL: &str = "adapter_model.safetensors";
/// What peft puts before the name of every linear.
pub(crate) const PREFIX: &str = "base_model.model.";
/// What follows the name of the linear that `A` and `B` belong to.
pub(crate) const ENDS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
/// Largest settings that are read.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Reads the adapter in `folder` for a model of this shape. Errors: files that are not there or are
/// damaged; settings other than plain LoRA; tensors that belong to no linear layer of a block, or
/// that are of another shape than settings and model ask for.
pub fn open_adapter(folder: &Path, config: &Config) -> Result<Adapter> {
    read(folder, |_| linears(config))
}

/// Reads the adapter in `folder` for whatever model has the linear layers that it names. Errors as for
/// [`open_adapter`], but for the model.
pub(super) fn read_adapter(folder: &Path) -> Result<Adapter> {
    read(folder, own_linears)
}

/// Outputs and inputs of linear layers by name.
type Shapes = BTreeMap<String, (usize, usize)>;

fn read(folder: &Path, shapes: impl FnOnce(&SafetensorsSource) -> Shapes) -> Result<Adapter> {
    let (settings, weights) = files(folder)?;
    let source = SafetensorsSource::open_files(std::slice::from_ref(&weights))?;
    let shapes = shapes(&source);
    let bytes = read_small(&settings, CONFIG_LIMIT)?;
    let parsed = AdapterConfig::parse(&bytes).map_err(|e| e.or_file(&settings))?;
    let targets = parsed.targets(shapes.keys().map(String::as_str));
    let targets = targets.map_err(|e| e.or_file(&settings))?;
    if targets.is_empty() {
        let problem = "target_modules names no linear layer of this model";
        return Err(Error::bad_data(problem)
            .file(&settings)
            .next("use the model that the adapter belongs to"));
    }
    check_owners(&source, &targets)?;
    let mut parts = Vec::new();
    for (name, target) in targets {
        parts.push((
            name.to_owned(),
            part(&source, name, (shapes[name], target)).map_err(|e| e.or_file(&weights))?,
        ));
    }
    Ok(Adapter::new(parts))
}

/// Outputs and inputs of every linear layer of the blocks.
fn linears(config: &Config) -> Shapes {
    let roles = || Role::ALL.into_iter().filter(|role| role.is_in(config));
    let block = |index| roles().map(move |role| (role.name(config, index), role.shape(config)));
    (0..config.layers.len()).flat_map(block).collect()
}

/// What the matrices themselves say; 0 for a size that no matrix gives.
fn own_linears(source: &SafetensorsSource) -> Shapes {
    let mut shapes = Shapes::new();
    for (tensor, info) in source.tensors() {
        let Some(name) = tensor.strip_prefix(PREFIX) else { continue };
        if let Some(name) = name.strip_suffix(ENDS[0]) {
            shapes.entry(name.to_owned()).or_default().1 = info.shape.last().copied().unwrap_or(0);
        } else if let Some(name) = name.strip_suffix(ENDS[1]) {
            shapes.entry(name.to_owned()).or_default().0 = info.shape.first().copied().unwrap_or(0);
        }
    }
    shapes
}

fn files(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (settings, weights) = (folder.join(ADAPTER_CONFIG), folder.join(ADAPTER_MODEL));
    let pickle = folder.join("adapter_model.bin");
    if !weights.exists() && pickle.exists() {
        return Err(pickle_refusal(&pickle));
    }
    if let Some(missing) = [&settings, &weights].into_iter().find(|file| !file.exists()) {
        return Err(Error::missing("an adapter has this file")
            .file(missing)
            .next(format!("give a folder with {ADAPTER_CONFIG} and {ADAPTER_MODEL}")));
    }
    Ok((settings, weights))
}

/// Every tensor is the `A` or the `B` of a linear that the settings name.
fn check_owners(source: &SafetensorsSource, targets: &BTreeMap<&str, Target>) -> Result<()> {
    let owner = |tensor: &str| {
        let name = tensor.strip_prefix(PREFIX)?;
        ENDS.iter().find_map(|end| name.strip_suffix(end)).and_then(|name| targets.get(name))
    };
    match source.tensors().iter().find(|(tensor, _)| owner(tensor).is_none()) {
        None => Ok(()),
        Some((tensor, info)) => {
            Err(Error::bad_data("belongs to no linear layer of a block that the settings target")
                .file(&info.file)
                .tensor(tensor)
                .next("use the model that the adapter was trained on; embedding and head take no adapter"))
        }
    }
}

fn part(
    source: &SafetensorsSource,
    name: &str,
    ((rows, cols), target): ((usize, usize), Target),
) -> Result<LowRank> {
    let Target { rank, scale } = target;
    let read = |end: &str, shape: [usize; 2]| {
        let tensor = format!("{PREFIX}{name}{end}");
        let Some(info) = source.tensors().get(&tensor) else {
            let problem = "the settings name its linear layer, and the file does not hold it";
            return Err(Error::bad_data(problem).tensor(tensor).next("fetch or save the adapter again"));
        };
        check_shape(&tensor, info, shape)?;
        Ok(source.weight(&tensor)?.to_f32(Alpha::ONE))
    };
    let (a, b) = (read(ENDS[0], [rank, cols])?, read(ENDS[1], [rows, rank])?);
    if !scale.is_finite() {
        return Err(Error::bad_data(format!("the factor {scale} is no number")).tensor(name));
    }
    LowRank::new((rows, cols), a, b, scale).map_err(|e| e.tensor(name))
}

fn check_shape(tensor: &str, info: &TensorInfo, shape: [usize; 2]) -> Result<()> {
    if info.shape == shape {
        return Ok(());
    }
    let problem = format!("shape {:?}; settings and model ask for {shape:?}", info.shape);
    Err(Error::bad_data(problem)
        .file(&info.file)
        .tensor(tensor)
        .next("use the model that the adapter was trained on"))
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
