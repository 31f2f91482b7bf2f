//! `adapter_config.json` of a LoRA adapter as Hugging Face PEFT writes it: which linear layers it adds to,
//! of what rank, times what. Hostile input. Knows names of layers and no tensor.
//!
//! Source: peft 0.21, `tuners/lora/config.py`, `tuners_utils.check_target_module_exists`,
//! `utils/other.get_pattern_key`. A setting that would change the logits and is not known here is refused.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Most bytes of a compiled pattern; one is held at a time.
const PATTERN_BYTES: usize = 1 << 18;

/// Settings that are read below, or that say nothing about the logits of a trained adapter.
const KNOWN: [&str; 28] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "bias",
    "init_lora_weights",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "parent_library",
    "revision",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "runtime_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "qalora_group_size",
    "ensure_weight_tying",
];

/// What is refused where it is set, and why.
const REFUSED: [(&str, &str); 8] = [
    ("use_dora", "DoRA changes the weights by more than a product of two matrices"),
    ("fan_in_fan_out", "weights stored as [in, out] are not supported"),
    ("modules_to_save", "an adapter that replaces whole layers is not supported"),
    ("lora_bias", "a bias in the adapter is not supported"),
    ("layers_pattern", "layers_pattern is not supported"),
    ("target_parameters", "target_parameters is not supported"),
    ("trainable_token_indices", "trained tokens are not supported"),
    ("use_qalora", "QA-LoRA is not supported"),
];

/// First values of `A` and `B` that leave the base model as it is.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// The checked settings.
#[derive(Debug, Clone)]
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    stabilised: bool,
    targets: Choice,
    excluded: Choice,
    layers: Option<Vec<u64>>,
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
}

/// How linear layers are chosen.
#[derive(Debug, Clone)]
enum Choice {
    /// Every one.
    All,
    /// Those whose names are or end in one of these.
    Ends(Vec<String>),
    /// Those whose whole names match.
    Pattern(String),
}

/// What is added to one linear layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// Rows of `A`.
    pub(super) rank: usize,
    /// The factor on `B A`.
    pub(super) scale: f32,
}

impl AdapterConfig {
    /// Reads and checks the settings.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let value: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|e| Error::bad_data(format!("not valid: {e}")).line(e.line() as u64))?;
        let fields = Fields(value);
        fields.check_kind()?;
        let targets = fields.choice("target_modules")?.ok_or_else(|| {
            Error::bad_data("target_modules is missing").next("save the adapter with peft once more")
        })?;
        let rank = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let alpha = |value: &Value| value.as_f64().filter(|a| a.is_finite());
        Ok(Self {
            rank: fields.get("r").and_then(rank).ok_or_else(|| odd("r"))?,
            alpha: fields.get("lora_alpha").and_then(alpha).ok_or_else(|| odd("lora_alpha"))?,
            stabilised: match fields.get("use_rslora") {
                None => false,
                Some(value) => value.as_bool().ok_or_else(|| odd("use_rslora"))?,
            },
            targets,
            excluded: fields.choice("exclude_modules")?.unwrap_or(Choice::Ends(Vec::new())),
            layers: fields.layers()?,
            ranks: fields.patterns("rank_pattern", rank)?,
            alphas: fields.patterns("alpha_pattern", alpha)?,
        })
    }

    /// What is added to which of the linear layers `names`.
    pub(super) fn targets<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<BTreeMap<&'n str, Target>> {
        let all: Vec<&str> = names.collect();
        let (chosen, excluded) = (self.targets.of(&all)?, self.excluded.of(&all)?);
        // peft looks at layers only where targets are a list.
        let layers = self.layers.as_ref().filter(|_| matches!(self.targets, Choice::Ends(_)));
        let in_layers = |name: &str| {
            let index = name.split('.').find_map(|part| part.parse::<u64>().ok());
            layers.is_none_or(|layers| index.is_some_and(|index| layers.contains(&index)))
        };
        let flags = chosen.into_iter().zip(excluded).map(|(chosen, excluded)| chosen && !excluded);
        let names: Vec<&str> = all
            .into_iter()
            .zip(flags)
            .filter(|(name, yes)| *yes && in_layers(name))
            .map(|(n, _)| n)
            .collect();
        let (ranks, alphas) = (first_match(&self.ranks, &names)?, first_match(&self.alphas, &names)?);
        let target = |(rank, alpha): (Option<usize>, Option<f64>)| {
            let (rank, alpha) = (rank.unwrap_or(self.rank), alpha.unwrap_or(self.alpha));
            let divisor = if self.stabilised { (rank as f64).sqrt() } else { rank as f64 };
            Target { rank, scale: (alpha / divisor) as f32 }
        };
        Ok(names.into_iter().zip(ranks.into_iter().zip(alphas).map(target)).collect())
    }
}

impl Choice {
    fn of(&self, names: &[&str]) -> Result<Vec<bool>> {
        Ok(match self {
            Self::All => vec![true; names.len()],
            Self::Ends(ends) => {
                let is = |name: &str, end: &String| {
                    name.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                names.iter().map(|name| ends.iter().any(|end| is(name, end))).collect()
            }
            Self::Pattern(pattern) => {
                let pattern = compile(pattern, "^(?:", ")$")?;
                names.iter().map(|name| pattern.is_match(name.as_bytes())).collect()
            }
        })
    }
}

/// The value of the first pattern that matches the end of each name, `(^|.*\.)PATTERN$`.
fn first_match<T: Copy>(patterns: &[(String, T)], names: &[&str]) -> Result<Vec<Option<T>>> {
    let mut found = vec![None; names.len()];
    for (pattern, value) in patterns {
        let pattern = compile(pattern, r"^(?:.*\.)?(?:", ")$")?;
        for (found, name) in found.iter_mut().zip(names).filter(|(found, _)| found.is_none()) {
            *found = pattern.is_match(name.as_bytes()).then_some(*value);
        }
    }
    Ok(found)
}

/// Names are ASCII; patterns match in time linear in them.
fn compile(pattern: &str, before: &str, after: &str) -> Result<Regex> {
    let refused = |e: regex::Error| {
        Error::bad_data(format!("pattern {pattern:?}: {e}")).next("write the names of the layers out in full")
    };
    // Alone first, so that a stray bracket cannot close the one around it.
    let build = |text: &str| RegexBuilder::new(text).unicode(false).size_limit(PATTERN_BYTES).build();
    build(pattern).and_then(|_| build(&format!("{before}{pattern}{after}"))).map_err(refused)
}

fn odd(key: &str) -> Error {
    Error::bad_data(format!("{key} has a value that it cannot have"))
        .next("save the adapter with peft once more")
}

/// The settings as they stand in the file.
struct Fields(Map<String, Value>);

impl Fields {
    /// A setting that is there and says something.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn check_kind(&self) -> Result<()> {
        let kind = self.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(Error::bad_data(format!("peft_type is {kind:?}")).next("use an adapter of type LORA"));
        }
        let merge = "merge it into its model with peft and use the merged model";
        if let Some((key, why)) = REFUSED.iter().find(|(key, _)| self.says(key)) {
            return Err(Error::bad_data(format!("{key}: {why}")).next(merge));
        }
        if let Some(bias) = self.get("bias").filter(|bias| *bias != "none") {
            return Err(Error::bad_data(format!("bias is {bias}; only \"none\" is supported")).next(merge));
        }
        let plain = |start: &Value| {
            start.is_boolean() || start.as_str().is_some_and(|start| PLAIN_STARTS.contains(&start))
        };
        if let Some(start) = self.get("init_lora_weights").filter(|start| !plain(start)) {
            let problem = format!("init_lora_weights is {start}, which changes the base model too");
            return Err(Error::bad_data(problem).next("convert it to a plain LoRA with peft"));
        }
        match self.0.keys().find(|key| !KNOWN.contains(&key.as_str()) && self.says(key)) {
            Some(key) => Err(Error::bad_data(format!("setting {key:?} is not known")).next(merge)),
            None => Ok(()),
        }
    }

    /// Whether a setting is anything but null, false, zero or empty.
    fn says(&self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(value) => value != &Value::Bool(false),
        }
    }

    fn choice(&self, key: &str) -> Result<Option<Choice>> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| odd(key));
        Ok(match self.get(key) {
            None => None,
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Some(Choice::All),
            Some(Value::String(pattern)) => Some(Choice::Pattern(pattern.clone())),
            Some(Value::Array(ends)) => Some(Choice::Ends(ends.iter().map(text).collect::<Result<_>>()?)),
            Some(_) => return Err(odd(key)),
        })
    }

    fn layers(&self) -> Result<Option<Vec<u64>>> {
        let index = |value: &Value| value.as_u64().ok_or_else(|| odd("layers_to_transform"));
        Ok(match self.get("layers_to_transform") {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) => Some(list.iter().map(index).collect::<Result<_>>()?),
            Some(one) => Some(vec![index(one)?]),
        })
    }

    fn patterns<T>(&self, key: &str, value: impl Fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>> {
        let Some(map) = self.get(key) else { return Ok(Vec::new()) };
        let pair = |(pattern, v): (&String, &Value)| Ok((pattern.clone(), value(v).ok_or_else(|| odd(key))?));
        map.as_object().ok_or_else(|| odd(key))?.iter().map(pair).collect()
    }
}

#[cfg(test)]
#[path = "adapter_config_tests.rs"]
mod tests;
