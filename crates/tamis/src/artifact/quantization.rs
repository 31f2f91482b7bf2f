//! `quantization_config` of `config.json` in the words of compressed-tensors, so that
//! other programs read the base as what it is: alpha = 0. Where weights are left out there is no
//! `quant_method`: others must refuse the folder rather than run it with fresh weights, and transformers
//! does so only for want of that key; of a method that it does not know it merely warns.
//!
//! Source: compressed-tensors `quantization/quant_config.py` (0.20), format
//! `pack-quantized`. 3-bit codes are packed densely, which readers of that format do
//! since 2026; older ones expect ten codes a word.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::entry::{Encoding, TensorEntry};
use crate::error::{Error, Result};
use crate::units::Bits;

/// Name of the method in `config.json`.
const METHOD: &str = "compressed-tensors";
/// The release whose layout is written.
const VERSION: &str = "0.20.0";
/// The head, which others look up by this name even where it is tied and not stored.
const HEAD: &str = "lm_head";

/// A way of storing integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) bits: Bits,
    /// Input features a scale; none for one scale a row.
    pub(super) group: Option<usize>,
    pub(super) symmetric: bool,
}

impl Scheme {
    /// The scheme of a packed tensor.
    fn of(entry: &TensorEntry) -> Option<Self> {
        let Encoding::Integers { bits, group, symmetric, .. } = entry.encoding else { return None };
        let group = (entry.shape.get(1) != Some(&group)).then_some(group);
        Some(Self { bits, group, symmetric })
    }
    /// How a matrix with rows of `cols` features is stored under this scheme.
    pub(super) fn encoding(self, cols: usize) -> Encoding {
        Encoding::Integers {
            bits: self.bits,
            group: self.group.map_or(cols, |g| g.min(cols)),
            symmetric: self.symmetric,
            ortho: None,
        }
    }
}

/// The `quantization_config` of these tensors; none where all are dense.
pub(super) fn describe(tensors: &[TensorEntry]) -> Option<Value> {
    let stem = |t: &TensorEntry| t.name.strip_suffix(".weight").map(str::to_owned);
    let mut groups: Vec<(Scheme, Vec<String>)> = Vec::new();
    let mut dense: BTreeSet<String> = BTreeSet::from([HEAD.to_owned()]);
    let mut pruned: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in tensors {
        let Some(stem) = stem(entry) else { continue };
        match Scheme::of(entry) {
            None if entry.encoding.is_pruned() => {
                dense.remove(&stem);
                pruned.entry(entry.encoding.to_string()).or_default().push(stem);
            }
            None if entry.shape.len() == 2 => {
                dense.insert(stem);
            }
            None => {}
            Some(scheme) => {
                dense.remove(&stem);
                match groups.iter_mut().find(|(s, _)| *s == scheme) {
                    Some((_, targets)) => targets.push(stem),
                    None => groups.push((scheme, vec![stem])),
                }
            }
        }
    }
    if groups.is_empty() && pruned.is_empty() {
        return None;
    }
    let groups: serde_json::Map<String, Value> = groups
        .iter()
        .enumerate()
        .map(|(i, (scheme, targets))| (format!("group_{i}"), group(*scheme, targets)))
        .collect();
    let mut description = json!({
        "quant_method": METHOD,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "version": VERSION,
        "config_groups": groups,
        "ignore": dense,
        "kv_cache_scheme": null,
    });
    if let (false, Value::Object(fields)) = (pruned.is_empty(), &mut description) {
        fields.shift_remove("quant_method");
        fields.insert("pruned".into(), json!(pruned));
    }
    Some(description)
}

fn group(scheme: Scheme, targets: &[String]) -> Value {
    json!({
        "targets": targets,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": if scheme.group.is_some() { "group" } else { "channel" },
            "group_size": scheme.group,
            "dynamic": false,
        },
        "input_activations": null,
        "output_activations": null,
    })
}

#[derive(Deserialize)]
struct Config {
    quant_method: String,
    format: Option<String>,
    #[serde(default)]
    config_groups: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct Group {
    targets: Vec<String>,
    weights: Option<Weights>,
    format: Option<String>,
}

#[derive(Deserialize)]
struct Weights {
    num_bits: u32,
    r#type: String,
    symmetric: bool,
    strategy: Option<String>,
    group_size: Option<i64>,
    actorder: Option<Value>,
}

/// Targets and schemes of a `quantization_config`. Errors: another method or format, or a
/// way of storing that tamis does not read.
pub(super) fn parse(config: &Value) -> Result<Vec<(Vec<String>, Scheme)>> {
    let bad = |e: serde_json::Error| Error::bad_data(format!("quantization_config: {e}"));
    let config = Config::deserialize(config).map_err(bad)?;
    if config.quant_method != METHOD {
        return Err(unsupported(format!("quant_method {:?}", config.quant_method)));
    }
    let mut schemes = Vec::new();
    for group in config.config_groups.values() {
        let group = Group::deserialize(group).map_err(bad)?;
        let format = group.format.as_ref().or(config.format.as_ref()).map(String::as_str);
        if format != Some("pack-quantized") {
            return Err(unsupported(format!("format {format:?}")));
        }
        if let Some(weights) = group.weights {
            schemes.push((group.targets, scheme(&weights)?));
        }
    }
    Ok(schemes)
}

fn scheme(weights: &Weights) -> Result<Scheme> {
    if weights.r#type != "int" {
        return Err(unsupported(format!("weights of type {:?}", weights.r#type)));
    }
    if weights.actorder.as_ref().is_some_and(|order| order == "group") {
        // Its weight_g_idx permutes the groups; "static" and "weight" keep them in order.
        return Err(unsupported("activation order \"group\"".into()));
    }
    let group = match (weights.strategy.as_deref(), weights.group_size) {
        (Some("channel"), _) | (None, Some(-1)) => None,
        (Some("group") | None, Some(size)) if size > 0 => Some(size as usize),
        (strategy, size) => return Err(unsupported(format!("strategy {strategy:?} with group {size:?}"))),
    };
    let bits = Bits::new(weights.num_bits).map_err(|e| unsupported(e.problem().to_owned()))?;
    Ok(Scheme { bits, group, symmetric: weights.symmetric })
}

fn unsupported(what: String) -> Error {
    Error::bad_data(format!("quantization_config: {what} is not supported"))
        .next("compressed-tensors pack-quantized with integer weights is read")
}
