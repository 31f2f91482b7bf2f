//! Trained low-rank pairs as an adapter of Hugging Face PEFT, which `PeftModel.from_pretrained` and
//! `load::open_adapter` read. Knows masters and a [`LoraSpec`], no training.
//!
//! Source: peft 0.21, `utils/save_and_load.py`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::parameters::Parameters;
use super::plan::{Pair, Plan, Trained};
use super::trainable::LoraSpec;
use crate::artifact::numbers;
use crate::disk::{atomic, create_folder};
use crate::error::{Error, Kind, Result};
use crate::load::adapter::{ADAPTER_CONFIG, ADAPTER_MODEL, ENDS, PREFIX};
use crate::model::Config;
use crate::model::block::Role;

/// One matrix of an adapter.
#[derive(Debug, Clone, Copy)]
pub struct Master<'a> {
    /// The linear's name and `.lora_A.weight` or `.lora_B.weight`.
    pub name: &'a str,
    /// `[rank, in]` or `[out, rank]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: &'a [f32],
}

/// The matrices of all low-rank additions that are kept apart from their weights.
pub fn masters<'a>(config: &Config, (plan, parameters): (&Plan, &'a Parameters)) -> Vec<Master<'a>> {
    let parameters = parameters.all();
    let mut all = Vec::new();
    for plan in &plan.blocks {
        for role in Role::ALL {
            let Trained::LowRank(Pair { a, b, rank, .. }) = plan.linear(role).weight else { continue };
            let (rows, cols) = role.shape(config);
            for (id, shape) in [(a, [rank, cols]), (b, [rows, rank])] {
                all.push(Master { name: &parameters[id].name, shape, values: &parameters[id].values });
            }
        }
    }
    all
}

/// Writes the adapter to `folder`, the settings last. `base` says which model it belongs to; nothing but
/// a reader's eye depends on it. Errors: matrices that make no pairs of the rank of `spec`, or that
/// belong to linear layers it does not target; numbers that are not finite; a folder that cannot be written.
pub fn write_adapter(folder: &Path, spec: &LoraSpec, base: &str, masters: &[Master<'_>]) -> Result<()> {
    check(spec, masters)?;
    create_folder(folder)?;
    // Settings beside other matrices would be read as an adapter: they go first and come last.
    atomic::remove(&folder.join(ADAPTER_CONFIG))?;
    let named: Vec<numbers::Array<'_>> =
        masters.iter().map(|m| (format!("{PREFIX}{}", m.name), m.shape.to_vec(), m.values)).collect();
    numbers::write(&folder.join(ADAPTER_MODEL), &named)?;
    let mut text = format!("{:#}", settings(spec, base)).into_bytes();
    text.push(b'\n');
    atomic::write(&folder.join(ADAPTER_CONFIG), &text)
}

fn settings(spec: &LoraSpec, base: &str) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "use_rslora": spec.rank_stabilised,
        "target_modules": spec.targets,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": false,
        "modules_to_save": null,
        "init_lora_weights": true,
        "inference_mode": true,
    })
}

/// Every linear has one `A` and one `B` of the rank of `spec`, and `spec` targets it.
fn check(spec: &LoraSpec, masters: &[Master<'_>]) -> Result<()> {
    let refused = |name: &str, problem: &str| Error::defect(problem).tensor(name);
    let mut pairs: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for Master { name, shape, values } in masters {
        let end = ENDS.iter().enumerate().find_map(|(at, end)| Some((at, name.strip_suffix(end)?)));
        let Some((at, linear)) = end.filter(|(_, linear)| spec.matches(linear)) else {
            return Err(refused(name, "is no part of a low-rank pair that the settings target"));
        };
        if shape[at] != spec.rank || shape[0].checked_mul(shape[1]) != Some(values.len()) {
            let problem = format!("{} values of shape {shape:?} at rank {}", values.len(), spec.rank);
            return Err(refused(name, &problem));
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(Error::new(Kind::NonFinite, "holds NaN or infinity").tensor(*name));
        }
        pairs.entry(linear).or_default()[at] += 1;
    }
    match pairs.iter().find(|(_, count)| **count != [1, 1]) {
        Some((name, _)) => Err(refused(name, "has not exactly one A and one B")),
        None if pairs.is_empty() => Err(Error::usage("an adapter without a single pair")
            .next("name at least one linear: --targets q_proj,v_proj")),
        None => Ok(()),
    }
}
