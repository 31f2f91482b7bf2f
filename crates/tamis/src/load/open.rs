//! From a path to a [`Checkpoint`]: which reader, which configuration, which text side.

use std::path::{Path, PathBuf};

use super::folder::SafetensorsSource;
use super::gguf::{GgufFile, GgufSource, Metadata, RotaryRows};
use super::sniff::{Found, sniff};
use super::tokenizer::read_json;
use super::{Checkpoint, expected, hub};
use crate::artifact::ArtifactSource;
use crate::error::{Error, Result};
use crate::model::architecture::GgufRotary;
use crate::model::config::{Positions, RopeScaling};
use crate::model::{Architecture, Config};

/// Where tokenizer and chat template come from.
#[derive(Debug, Clone)]
pub(super) enum TextSide {
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// The metadata of a GGUF file.
    Gguf(Metadata),
}

pub(super) fn open(spec: &str) -> Result<Checkpoint> {
    let opened = match sniff(&hub::resolve(spec)?)? {
        Found::Gguf(path) => open_gguf(&path),
        Found::HuggingFace(path) => open_folder(&path),
        Found::Artifact(path) => open_artifact(&path),
    };
    let checked = opened.and_then(|opened| {
        expected::check(opened.config(), opened.tensors(), opened.path())?;
        Ok(opened)
    });
    checked.map_err(|e| hub::explain(spec, e))
}

fn open_folder(path: &Path) -> Result<Checkpoint> {
    let config_path = path.join("config.json");
    let json = read_json(&config_path)?;
    if let Some(section) = json.get("quantization_config").filter(|v| !v.is_null()) {
        let method = section.get("quant_method").and_then(|m| m.as_str()).unwrap_or("unnamed");
        return Err(Error::bad_data(format!("already quantised (method {method:?})"))
            .file(&config_path)
            .next("give the original model in F32, F16 or BF16"));
    }
    let config = Config::from_hf(&json).map_err(|e| e.or_file(&config_path))?;
    let tensors = SafetensorsSource::open_folder(path)?;
    Ok(Checkpoint::new(path.to_path_buf(), config, Box::new(tensors)))
}

fn open_gguf(path: &Path) -> Result<Checkpoint> {
    let file = GgufFile::open(path)?;
    let metadata = file.header().metadata.clone();
    if metadata.usize("split.count").map_err(|e| e.or_file(path))?.is_some_and(|n| n > 1) {
        return Err(Error::bad_data("one part of a split GGUF")
            .file(path)
            .next("join it: gguf-split --merge"));
    }
    let mut config = Config::from_gguf(&metadata).map_err(|e| e.or_file(path))?;
    let family = config.architecture.family();
    let rotary = match family.gguf_rotary {
        GgufRotary::Halves => RotaryRows::Halves,
        GgufRotary::Interleaved => RotaryRows::Interleaved { head_dim: config.head_dim },
    };
    if let Some(factors) = file.raw_vector("rope_freqs.weight")? {
        let refuse = |e: Error| e.file(path).tensor("rope_freqs.weight");
        scale_rope(&mut config, &factors).map_err(refuse)?;
    }
    let tensors = GgufSource::new(file, family, rotary)?;
    let head = format!("{}.weight", family.names.head);
    config.tied = !super::TensorSource::tensors(&tensors).contains_key(&head);
    let mut checkpoint = Checkpoint::new(path.to_path_buf(), config, Box::new(tensors));
    checkpoint.text = TextSide::Gguf(metadata);
    Ok(checkpoint)
}

fn open_artifact(path: &Path) -> Result<Checkpoint> {
    let config_path = path.join("config.json");
    let config = Config::from_hf(&read_json(&config_path)?).map_err(|e| e.or_file(&config_path))?;
    Ok(Checkpoint::new(path.to_path_buf(), config, Box::new(ArtifactSource::open(path)?)))
}

/// GGUF stores Llama 3's frequency change as one divisor a pair. The rule behind it is
/// recovered, so that the model can be written back as Hugging Face writes it; its band
/// has been the same in every Llama 3.1, 3.2 and 3.3.
fn scale_rope(config: &mut Config, factors: &[f32]) -> Result<()> {
    let head_dim = config.head_dim;
    let ropes = match &mut config.positions {
        Positions::Rotary(ropes) if config.architecture == Architecture::Llama => ropes,
        _ => return Err(Error::bad_data("rotary factors in a family that has none")),
    };
    let largest = factors.iter().copied().fold(1.0, f32::max);
    for rope in ropes {
        let plain = rope.inverse_frequencies(head_dim);
        rope.scaling = RopeScaling::Llama3 {
            factor: f64::from(largest),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let scaled = rope.inverse_frequencies(head_dim);
        let fits =
            factors.len() == plain.len()
                && plain.iter().zip(&scaled).zip(factors).all(|((plain, scaled), &factor)| {
                    (plain / scaled / f64::from(factor) - 1.0).abs() < 1e-4
                });
        if !fits {
            return Err(Error::bad_data("the rotary factors follow no known rule (Llama 3 is known)")
                .next("use the model's Hugging Face folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
