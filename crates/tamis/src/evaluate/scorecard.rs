//! All results of an evaluation as one JSON document: the envelope of lm-evaluation-harness
//! (`lm_eval/result_schema.py`), so that its readers find what they know, and everything of
//! ours under the one extra key `tamis`, which they ignore. Knows no file, clock or model:
//! the caller states those facts.
//!
//! `lm_eval_version` is always null: these numbers follow the harness's definitions, but no
//! version of the harness computed them.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::divergence::Divergence;
use super::perplexity::Perplexity;
use super::walk::Report;

/// What the caller knows about a run.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Path or name of the model.
    pub model: String,
    /// Its number of parameters.
    pub parameters: Option<u64>,
    /// How its weights are stored (`bf16`, `int4-g64`, ...).
    pub dtype: Option<String>,
    /// Hash of its weights.
    pub sha256: Option<String>,
    /// Longest sequence.
    pub max_length: usize,
    /// The dense model compared with.
    pub baseline: Option<String>,
    /// What was read: path or name of the text.
    pub text: Option<String>,
    /// Limit that was asked for, in windows or documents.
    pub limit: Option<usize>,
    /// Seed, for tasks that draw.
    pub seed: Option<u64>,
    /// Seconds since 1970 at the start.
    pub date: f64,
    /// Length of the run in seconds.
    pub seconds: f64,
    /// Tokens as text.
    pub bos_token: Option<String>,
    /// The same.
    pub eos_token: Option<String>,
}

/// Result of one task, in the harness's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// Its name (`wikitext`, `gsm8k`).
    pub name: String,
    /// Version of its definition.
    pub version: Value,
    /// Examples in the prompt.
    pub shots: usize,
    /// Documents that the task has, and that were used.
    pub samples: (usize, usize),
    /// Its numbers.
    pub metrics: Vec<Metric>,
}

/// One number of a task; its key is `name,filter`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// `acc`, `word_perplexity`, ...
    pub name: String,
    /// How answers were extracted; `none` where they were not.
    pub filter: String,
    /// The number.
    pub value: f64,
    /// Its standard error, where one is defined.
    pub stderr: Option<f64>,
    /// Which way is good.
    pub better: Better,
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Accuracy.
    Higher,
    /// Perplexity.
    Lower,
}

/// Everything that one evaluation found.
#[derive(Debug, Clone, Default)]
pub struct Scorecard {
    facts: Facts,
    tasks: Vec<TaskResult>,
    perplexity: Vec<Perplexity>,
    divergence: Vec<Divergence>,
    extra: Map<String, Value>,
}

impl Scorecard {
    /// Without results yet.
    pub fn new(facts: Facts) -> Self {
        Self { facts, ..Self::default() }
    }
    /// Adds perplexities and divergences. Of an `lm-eval` report the perplexities at the
    /// highest alpha also become the harness's task `wikitext`.
    pub fn report(&mut self, report: &Report) {
        let highest = report.perplexity.iter().max_by(|a, b| a.alpha.get().total_cmp(&b.alpha.get()));
        self.tasks.extend(highest.and_then(wikitext_task));
        self.perplexity.extend_from_slice(&report.perplexity);
        self.divergence.extend_from_slice(&report.divergence);
    }
    /// Adds a task.
    pub fn task(&mut self, task: TaskResult) {
        self.tasks.push(task);
    }
    /// Adds a result of ours under `tamis.{key}`.
    pub fn extra(&mut self, key: impl Into<String>, value: Value) {
        self.extra.insert(key.into(), value);
    }

    /// The document. Keys of the envelope that mean nothing here are null.
    pub fn to_json(&self) -> Value {
        let mut card = Map::new();
        let mut by_task = |key: &str, value: fn(&TaskResult) -> Value| {
            let map: Map<_, _> = self.tasks.iter().map(|task| (task.name.clone(), value(task))).collect();
            card.insert(key.into(), Value::Object(map));
        };
        by_task("results", results);
        by_task("configs", |task| json!({"task": task.name, "num_fewshot": task.shots}));
        by_task("versions", |task| task.version.clone());
        by_task("n-shot", |task| json!(task.shots));
        by_task("higher_is_better", directions);
        by_task("n-samples", |task| json!({"original": task.samples.0, "effective": task.samples.1}));
        card.insert("groups".into(), json!({}));
        card.insert("group_subtasks".into(), json!({}));
        card.insert("config".into(), self.config());
        self.envelope(&mut card);
        card.insert("tamis".into(), self.ours());
        Value::Object(card)
    }

    /// The harness's `config`: how the run was asked for.
    fn config(&self) -> Value {
        let Facts { model, parameters, dtype, sha256, limit, seed, .. } = &self.facts;
        json!({
            "model": "tamis",
            "model_args": {"pretrained": model},
            "model_num_parameters": parameters,
            "model_dtype": dtype,
            "model_revision": null,
            "model_sha": sha256,
            "batch_size": 1,
            "device": "cpu",
            "limit": limit,
            "bootstrap_iters": 0,
            "gen_kwargs": null,
            "random_seed": seed,
            "numpy_seed": null,
            "torch_seed": null,
            "fewshot_seed": seed,
        })
    }

    fn envelope(&self, card: &mut Map<String, Value>) {
        let facts = &self.facts;
        let Value::Object(rest) = json!({
            "git_hash": null,
            "date": facts.date,
            "pretty_env_info": null,
            "transformers_version": null,
            "lm_eval_version": null,
            "tokenizer_pad_token": null,
            "tokenizer_eos_token": facts.eos_token,
            "tokenizer_bos_token": facts.bos_token,
            "eot_token_id": null,
            "max_length": facts.max_length,
            "task_hashes": {},
            "model_source": "tamis",
            "model_name": facts.model,
            "model_name_sanitized": sanitized(&facts.model),
            "system_instruction": null,
            "system_instruction_sha": null,
            "fewshot_as_multiturn": null,
            "chat_template": null,
            "chat_template_sha": null,
            "total_evaluation_time_seconds": facts.seconds.to_string(),
        }) else {
            unreachable!("an object literal");
        };
        card.extend(rest);
    }

    fn ours(&self) -> Value {
        #[derive(Serialize)]
        struct Ours<'a> {
            version: &'static str,
            text: &'a Option<String>,
            baseline: &'a Option<String>,
            perplexity: &'a [Perplexity],
            divergence: &'a [Divergence],
            #[serde(flatten)]
            extra: &'a Map<String, Value>,
        }
        let ours = Ours {
            version: env!("CARGO_PKG_VERSION"),
            text: &self.facts.text,
            baseline: &self.facts.baseline,
            perplexity: &self.perplexity,
            divergence: &self.divergence,
            extra: &self.extra,
        };
        serde_json::to_value(ours).expect("numbers, strings and maps with string keys")
    }
}

/// Model name as the harness makes a folder of it: each run of `"<>:/|\?*[]` becomes `__`.
pub fn sanitized(model: &str) -> String {
    let special = |c: char| "\"<>:/|\\?*[]".contains(c);
    let mut name = String::new();
    let mut inside = false;
    for c in model.chars() {
        match special(c) {
            true if !inside => name.push_str("__"),
            true => {}
            false => name.push(c),
        }
        inside = special(c);
    }
    name
}

fn results(task: &TaskResult) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), json!(task.name));
    map.insert("alias".into(), json!(task.name));
    map.insert("sample_len".into(), json!(task.samples.1));
    for Metric { name, filter, value, stderr, .. } in &task.metrics {
        map.insert(format!("{name},{filter}"), json!(value));
        map.insert(format!("{name}_stderr,{filter}"), stderr.map_or(json!("N/A"), |e| json!(e)));
    }
    Value::Object(map)
}

fn directions(task: &TaskResult) -> Value {
    let pair = |m: &Metric| (m.name.clone(), json!(m.better == Better::Higher));
    Value::Object(task.metrics.iter().map(pair).collect())
}

/// The harness bootstraps no error for these metrics with `bootstrap_iters` 0: "N/A".
fn wikitext_task(perplexity: &Perplexity) -> Option<TaskResult> {
    let document = perplexity.document?;
    let metric = |name: &str, value| Metric {
        name: name.into(),
        filter: "none".into(),
        value,
        stderr: None,
        better: Better::Lower,
    };
    Some(TaskResult {
        name: "wikitext".into(),
        version: json!(2.0),
        shots: 0,
        samples: (perplexity.windows_available, perplexity.windows),
        metrics: vec![
            metric("word_perplexity", document.word_perplexity),
            metric("byte_perplexity", document.byte_perplexity),
            metric("bits_per_byte", document.bits_per_byte),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Evaluation, Protocol, Specials};
    use crate::model::toy::Toy;
    use crate::units::Alpha;

    fn report(protocol: Protocol) -> Report {
        let specials = Specials { bos: Some(1), ..Specials::default() };
        let encode = |text: &str| Ok(text.bytes().map(u32::from).collect());
        let windows = protocol.windows(" = A = \n some words .\n", &encode, specials, None).unwrap();
        let toy = Toy::uniform(256);
        let alphas = [Alpha::ZERO, Alpha::ONE];
        let threads = std::num::NonZeroUsize::MIN;
        Evaluation { model: &toy, alphas: &alphas, baseline: Some(&toy), windows: &windows, threads }
            .run(&mut |_| {})
            .unwrap()
    }

    #[test]
    fn perplexity_lies_under_our_key_only() {
        let mut card = Scorecard::new(Facts { model: "a/b:c".into(), seconds: 1.5, ..Facts::default() });
        card.report(&report(Protocol::Gptq { context: 8 }));
        card.extra("canary", json!({"exposure": 3.0}));
        let card = card.to_json();
        assert_eq!(card["results"], json!({}));
        assert_eq!(card["lm_eval_version"], Value::Null);
        assert_eq!(card["model_name_sanitized"], "a__b__c");
        assert_eq!(card["total_evaluation_time_seconds"], "1.5");
        let first = &card["tamis"]["perplexity"][0];
        assert!((first["value"].as_f64().unwrap() - 256.0).abs() < 1e-3);
        assert_eq!((&first["alpha"], &first["protocol"]), (&json!(0.0), &json!("gptq")));
        assert_eq!((&first["context"], &first["bos"]), (&json!(8), &json!("none")));
        assert_eq!((&first["tokens"], &first["windows"]), (&json!(14), &json!(2)));
        assert_eq!(first["baseline"]["log_ratio"], 0.0);
        let divergence = &card["tamis"]["divergence"][1];
        assert_eq!((&divergence["alpha"], &divergence["same_top1"]), (&json!(1.0), &json!(1.0)));
        assert_eq!(card["tamis"]["canary"]["exposure"], 3.0);
    }

    #[test]
    fn document_perplexities_are_the_harness_task() {
        /// The page before, and after detokenising.
        const BYTES: f64 = 22.0;
        const TOKENS: f64 = 20.0;
        let mut card = Scorecard::new(Facts::default());
        card.report(&report(Protocol::LmEval { context: 8 }));
        let card = card.to_json();
        let task = &card["results"]["wikitext"];
        assert!((task["bits_per_byte,none"].as_f64().unwrap() - 8.0 * TOKENS / BYTES).abs() < 1e-5);
        assert_eq!(task["word_perplexity_stderr,none"], "N/A");
        assert_eq!(card["n-samples"]["wikitext"], json!({"original": 1, "effective": 1}));
        assert_eq!(card["higher_is_better"]["wikitext"]["word_perplexity"], false);
        assert_eq!(card["versions"]["wikitext"], 2.0);
    }
}
