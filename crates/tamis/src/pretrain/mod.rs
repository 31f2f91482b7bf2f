//! Training from scratch with the engine of `recover`: a configuration, a text, random first weights. Prints
//! nothing.
//!
//! ```text
//! plan.rs      what a configuration file says        bounds.rs   what its numbers may be
//! estimate.rs  what it takes                         start.rs    the untrained model as a folder
//! ```

mod bounds;
mod estimate;
pub mod plan;
pub mod start;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::json;

use crate::artifact::{Existing, MANIFEST, Resume};
use crate::calibrate::read_documents;
use crate::disk::digest::sha256;
use crate::disk::{self, RunFolder, atomic, inside, read_small};
use crate::error::{Error, Kind, Result};
use crate::load::{Checkpoint, Tokenizer};
use crate::nano::exam::{self, Questions};
use crate::nano::{Corpus, tokenizer, validation};
use crate::recover::checkpoint;
use crate::recover::report::Account;
use crate::recover::run::{Run, Watch, check_finished, is_finished};
use crate::recover::sequences::Sequences;
use crate::recover::settings::{Losses, Settings};
use crate::recover::student::Arithmetic;
use crate::recover::trainable::{Extras, LoraSpec, Method, Spec};
use crate::recover::trainer::Texts;
use crate::workers::Alone;
use plan::{Data, Plan};

/// Bytes of synthetic validation text.
const VALIDATION: usize = 200_000;
/// Folder of the untrained model inside the output folder.
const START: &str = ".start";
const PLAN: &str = "plan.json";
/// Longest file of a run that is read.
const LIMIT: u64 = 1 << 20;
/// Largest `tokenizer.json`, and the largest of its configuration.
const JSON_LIMIT: u64 = 256 << 20;
const CONFIG_LIMIT: u64 = 16 << 20;

/// Trains the model of `plan` and writes it to `output`; afterwards it can be examined with these questions. Errors: a
/// folder with something that is not to be replaced; a context that the questions do not fit; too little memory; those
/// of the texts, of training, of writing.
pub fn pretrain(
    plan: &Plan,
    questions: Option<Questions>,
    how: Arithmetic<'_>,
    (output, policy): (&Path, (Resume, Existing)),
    watch: &mut Watch<'_>,
) -> Result<Account> {
    let identity = sha256(json!([plan, env!("CARGO_PKG_VERSION")]).to_string().as_bytes());
    if policy.0 == Resume::Auto {
        let reported = disk::finished(output, (START, PLAN), &identity)?;
        if let Some(account) = reported.filter(|_| is_finished(output)) {
            return Ok(account);
        }
    }
    plan.check()?;
    let begun = inside(output, START)?.join(PLAN).exists() && policy.0 == Resume::Auto;
    if !begun {
        check_finished(output, policy.1)?;
    }
    estimate::plan(plan)?.check()?;
    let raw = Raw::read(&plan.data)?;
    let files = raw.files(&plan.data)?;
    check_context(plan, questions, &files)?;
    let start = begin(&identity, (output, policy.0))?;
    let prepared = Prepared::new(plan, (raw, files), &start)?;
    let run = Run {
        workers: &Alone,
        checkpoint: &prepared.start,
        teacher: None,
        how,
        settings: &prepared.settings,
        texts: &prepared.texts,
        output,
        policy,
        teacher_cache: None,
    };
    let account = run.mend(watch)?;
    start.report(&identity, &account)?;
    checkpoint::discard(output)?;
    start.remove(PLAN)?;
    Ok(account)
}

/// The folder of the untrained model, of this run or a new one.
fn begin(identity: &str, (output, resume): (&Path, Resume)) -> Result<RunFolder> {
    if resume == Resume::Never {
        disk::discard(output, START, PLAN)?;
    }
    let start = RunFolder::create(output, START)?;
    let known = start.entry(PLAN)?;
    if !known.exists() {
        start.clear(PLAN)?;
        atomic::write(&known, identity.as_bytes())?;
    } else if read_small(&known, LIMIT)? != identity.as_bytes() {
        return Err(Error::usage("the folder holds an unfinished run of another configuration")
            .file(output)
            .next("give the same configuration again, another output folder, or --resume never"));
    }
    Ok(start)
}

/// The untrained model, the texts and the settings of a plan.
struct Prepared {
    start: Checkpoint,
    texts: Texts,
    settings: Settings,
}

impl Prepared {
    fn new(plan: &Plan, (raw, files): (Raw, Files), work: &RunFolder) -> Result<Self> {
        let folder = work.entry("model")?;
        if !folder.join(MANIFEST).exists() {
            let [.., tokenizer] = plan.data.files();
            start::write(plan, files, &folder).map_err(about(tokenizer))?;
        }
        let start = Checkpoint::open(&folder.to_string_lossy())?;
        let tokenizer = start.tokenizer()?;
        let stream = |texts: &[String]| tokenizer::token_stream(&tokenizer, texts.iter().map(String::as_str));
        let length = plan.model.context;
        let [train_file, valid_file, _] = plan.data.files();
        let mut valid = stream(&raw.valid).map_err(about(valid_file))?;
        let windows = (valid.len() / length).min(plan.training.windows);
        if windows == 0 {
            let none = Error::bad_data("the validation text holds no window of the model's context");
            return Err(about(valid_file)(none.next("give more text, or a model with a smaller context")));
        }
        valid.truncate(windows * length);
        let train = stream(&raw.train).and_then(|tokens| Sequences::new(tokens, length));
        let texts = Texts { train: train.map_err(about(train_file))?, valid, also: None };
        let settings = settings(plan, texts.train.count());
        Ok(Self { start, texts, settings })
    }
}

/// Names the file that an error is about, where there is one.
fn about(file: Option<&Path>) -> impl Fn(Error) -> Error {
    move |e| file.map_or(e.clone(), |file| e.about(file))
}

/// Tokenizer and its configuration, by name.
type Files = Vec<(String, Vec<u8>)>;

/// Texts before they are tokens.
struct Raw {
    train: Vec<String>,
    valid: Vec<String>,
    /// What a new tokenizer may be trained on.
    public: Vec<String>,
}

impl Raw {
    fn read(data: &Data) -> Result<Self> {
        Ok(match data {
            Data::Nano(corpus) => {
                let made = Corpus::generate(&corpus.plan())?;
                let public = made.public_texts().map(str::to_owned).collect();
                let texts =
                    |documents: Vec<crate::nano::Document>| documents.into_iter().map(|d| d.text).collect();
                Self {
                    train: texts(made.documents),
                    valid: texts(validation(corpus.seed, VALIDATION)),
                    public,
                }
            }
            Data::Files { train, valid, .. } => {
                Self { train: read_documents(train)?, valid: read_documents(valid)?, public: Vec::new() }
            }
        })
    }

    /// Tokenizer and its configuration.
    fn files(&self, data: &Data) -> Result<Files> {
        let (json, config) = match data {
            Data::Nano(_) => (tokenizer::train(self.public.iter().map(String::as_str))?, tokenizer::config()),
            Data::Files { tokenizer, .. } => {
                let config = tokenizer.with_file_name("tokenizer_config.json");
                let beside =
                    if config.exists() { read_small(&config, CONFIG_LIMIT)? } else { b"{}".to_vec() };
                (read_small(tokenizer, JSON_LIMIT)?, beside)
            }
        };
        Ok(vec![("tokenizer.json".into(), json), ("tokenizer_config.json".into(), config)])
    }
}

/// Refuses a context in which a question and its answer have no place.
fn check_context(plan: &Plan, questions: Option<Questions>, files: &[(String, Vec<u8>)]) -> Result<()> {
    let (Data::Nano(corpus), Some(questions)) = (&plan.data, questions) else { return Ok(()) };
    let (_, json) = files.first().ok_or_else(|| Error::defect("a model without a tokenizer"))?;
    let (needed, own) =
        (exam::context(&Tokenizer::from_json(json)?, &corpus.plan(), questions)?, plan.model.context);
    if needed <= own {
        return Ok(());
    }
    let problem =
        format!("model.context of {own} has no place for the {needed} tokens of a question of the exam");
    Err(Error::new(Kind::Recipe, problem).next(format!("set it to {needed} or more")))
}

/// Settings for so many sequences of text.
fn settings(plan: &Plan, sequences: usize) -> Settings {
    let training = &plan.training;
    let batches = sequences as f64 / training.batch as f64;
    let steps = (training.epochs * batches).ceil() as usize;
    Settings {
        spec: Spec {
            method: Method::Full,
            lora: LoraSpec { rank: 1, alpha: 1.0, rank_stabilised: false, targets: vec![] },
            extras: Extras { norms: true, embedding: true },
            seed: training.seed,
        },
        losses: Losses { next_token: 1.0, distillation: 0.0, feature: 0.0, temperature: 1.0, top: 1 },
        optimiser: training.optimiser(),
        steps,
        skip: 0,
        batch: training.batch,
        length: plan.model.context,
        dropout: 0.0,
        residual: false,
        every: training.every.unwrap_or(steps.div_ceil(20)).max(1),
        keep: 1,
        windows: training.windows,
        patience: None,
        improvement: 0.0,
        seed: training.seed,
        recompute: false,
    }
}
