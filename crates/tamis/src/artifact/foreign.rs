//! Other programs' compressed-tensors `pack-quantized` folders, as tensors of our own
//! encodings. Scales that are no f16 are taken only where f16 holds them exactly, because
//! anything else would change the model silently.
//!
//! Source: compressed-tensors `compressors/pack_quantized` (0.20). Refused with a message:
//! `weight_g_idx`, the padded 3-bit layout of 2025, other formats.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use super::codec::read_slot;
use super::container::{Container, Dtype, Slot};
use super::entry::{Encoding, TensorEntry};
use super::manifest::{BASE, CONFIG, read_json};
use super::quantization::{self, Scheme};
use super::reader::Place;
use crate::disk::is_plain_name;
use crate::error::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";
/// What a packed linear is made of, besides its bias.
const PARTS: [&str; 4] = ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point"];

/// Whether `config.json` describes packed weights.
pub(super) fn is_packed(folder: &Path) -> bool {
    let config = || {
        let bytes = read_json(&folder.join(CONFIG)).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    config().is_some_and(|c| c["quantization_config"]["quant_method"] == "compressed-tensors")
}

/// Opens all files of the folder and works out how each tensor is stored.
pub(super) fn open(folder: &Path) -> Result<(Vec<Container>, BTreeMap<String, Place>)> {
    let path = folder.join(CONFIG);
    let json = |e: serde_json::Error| Error::bad_data(format!("not valid JSON: {e}")).file(&path);
    let config: Value = serde_json::from_slice(&read_json(&path)?).map_err(json)?;
    let schemes = quantization::parse(&config["quantization_config"]).map_err(|e| e.or_file(&path))?;
    let files: Vec<_> = files(folder)?.iter().map(|f| Container::open(f)).collect::<Result<_>>()?;
    let mut places = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for entry in entries(file, &schemes).map_err(|e| e.or_file(file.path()))? {
            let place = Place { entry, file: index };
            if let Some(twice) = places.insert(place.entry.name.clone(), place) {
                return Err(Error::bad_data("stored twice").file(file.path()).tensor(twice.entry.name));
            }
        }
    }
    Ok((files, places))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    if !index.exists() {
        return Ok(vec![folder.join(BASE)]);
    }
    let bad = |problem: String| Error::bad_data(problem).file(&index);
    let Index { weight_map } =
        serde_json::from_slice(&read_json(&index)?).map_err(|e| bad(format!("not an index: {e}")))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    match names.iter().find(|n| !is_plain_name(n)) {
        Some(name) => Err(bad(format!("{name:?} is not a plain file name"))),
        None => Ok(names.into_iter().map(|n| folder.join(n)).collect()),
    }
}

fn entries(file: &Container, schemes: &[(Vec<String>, Scheme)]) -> Result<Vec<TensorEntry>> {
    let names: Vec<&String> = file.entries().keys().collect();
    let packed: BTreeSet<&str> = names.iter().filter_map(|n| n.strip_suffix(".weight_packed")).collect();
    let mut entries = Vec::new();
    for name in names.iter().copied() {
        if let Some(stem) = name.strip_suffix(".weight_packed") {
            entries.push(linear(file, stem, schemes)?);
            continue;
        }
        match name.rsplit_once('.') {
            Some((stem, part)) if packed.contains(stem) && PARTS.contains(&part) => {}
            Some((stem, part)) if packed.contains(stem) && part != "bias" => {
                return Err(Error::bad_data("a packed linear with this part is not supported").tensor(name));
            }
            _ => entries.push(plain(file, name)?),
        }
    }
    Ok(entries)
}

fn plain(file: &Container, name: &str) -> Result<TensorEntry> {
    let found = file.entry(name)?;
    let encoding = match found.dtype.as_str() {
        "F32" => Encoding::F32,
        "F16" => Encoding::F16,
        "BF16" => Encoding::Bf16,
        other => return Err(Error::bad_data(format!("type {other} is not supported")).tensor(name)),
    };
    let shape = found.shape.clone();
    Ok(TensorEntry { name: name.into(), shape, encoding, sha256: BTreeMap::new() })
}

/// The one encoding that the config allows and the shapes confirm.
fn linear(file: &Container, stem: &str, schemes: &[(Vec<String>, Scheme)]) -> Result<TensorEntry> {
    let name = format!("{stem}.weight");
    let shape_slot = Slot { name: format!("{stem}.weight_shape"), dtype: Dtype::I64, shape: vec![2] };
    let bytes = file.read(&shape_slot)?;
    let dim = |i: usize| {
        let piece = bytes[8 * i..][..8].try_into().expect("eight bytes");
        usize::try_from(i64::from_le_bytes(piece)).map_err(|_| Error::bad_data("a negative size"))
    };
    let shape = vec![dim(0)?, dim(1)?];
    let exact: Vec<_> = schemes.iter().filter(|(targets, _)| targets.iter().any(|t| t == stem)).collect();
    let candidates = if exact.is_empty() { schemes.iter().collect() } else { exact };
    let mut found: Vec<Encoding> = Vec::new();
    for (_, scheme) in candidates {
        let encoding = scheme.encoding(shape[1]);
        if fits(file, encoding, &name, &shape) && !found.contains(&encoding) {
            found.push(encoding);
        }
    }
    match found[..] {
        [encoding] => Ok(TensorEntry { name, shape, encoding, sha256: BTreeMap::new() }),
        [] => Err(Error::bad_data("no group of quantization_config fits the stored shapes")
            .tensor(name)
            .next("3-bit codes must be packed densely; type, group and zero points must agree")),
        _ => Err(Error::bad_data("several groups of quantization_config fit the stored shapes")
            .tensor(name)
            .next("name the linear in `targets` of one group")),
    }
}

fn fits(file: &Container, encoding: Encoding, name: &str, shape: &[usize]) -> bool {
    let Ok(slots) = encoding.slots(name, shape) else { return false };
    let zero = format!("{name}_zero_point");
    let has_zeros = file.entries().contains_key(&zero);
    slots.base.iter().any(|s| s.name == zero) == has_zeros
        && slots.base.iter().all(|slot| {
            file.entries().get(&slot.name).is_some_and(|found| {
                let scale = slot.dtype == Dtype::F16 && matches!(found.dtype.as_str(), "BF16" | "F32");
                found.shape == slot.shape && (found.dtype == slot.dtype.name() || scale)
            })
        })
}

/// Reads a slot; a scale that is stored as bf16 or f32 becomes the same number as f16.
pub(super) fn read(file: &Container, slot: &Slot) -> Result<Vec<u8>> {
    let stored = file.entry(&slot.name)?;
    let dtype = match stored.dtype.as_str() {
        "BF16" if slot.dtype == Dtype::F16 => Dtype::Bf16,
        "F32" if slot.dtype == Dtype::F16 => Dtype::F32,
        _ => return read_slot(file, slot),
    };
    let width = dtype.width();
    let wide = file.read(&Slot { dtype, ..slot.clone() })?;
    let mut narrow = Vec::with_capacity(wide.len() / width * 2);
    for (i, piece) in wide.chunks_exact(width).enumerate() {
        let value = match *piece {
            [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("pieces of two or four bytes"),
        };
        let half = f16::from_f32(value);
        if half.to_f32() != value || !value.is_finite() {
            return Err(Error::bad_data(format!("scale {value:e} is not finite or has no exact f16 value"))
                .file(file.path())
                .tensor(&slot.name)
                .offset(stored.offset + (i * width) as u64)
                .next("convert the dense model with tamis instead"));
        }
        narrow.extend(half.to_le_bytes());
    }
    Ok(narrow)
}
