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

use crate::artifact::{Existing, MANIFEST, Manifest, Resume};
use crate::calibrate::read_documents;
use crate::disk::{atomic, read_small};
use crate::error::{Error, Kind, Result};
use crate::load::{Checkpoint, Tokenizer};
use crate::nano::exam::{self, Questions};
use crate::nano::{Corpus, tokenizer, validation};
use crate::recover::report::Account;
use crate::recover::run::{Run, Watch, check_finished};
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
    plan.check()?;
    check_finished(output, policy.1)?;
    estimate::plan(plan)?.check()?;
    let prepared = Prepared::new(plan, questions, (output, policy.0))?;
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
    let account = run.carry_out(watch)?;
    let folder = output.join(START);
    std::fs::remove_dir_all(&folder).map_err(|e| Error::writing(&folder, &e))?;
    Ok(account)
}

/// The untrained model, the texts and the settings of a plan.
struct Prepared {
    start: Checkpoint,
    texts: Texts,
    settings: Settings,
}

impl Prepared {
    fn new(plan: &Plan, questions: Option<Questions>, (output, resume): (&Path, Resume)) -> Result<Self> {
        let raw = Raw::read(&plan.data)?;
        let folder = output.join(START);
        if resume == Resume::Never {
            atomic::remove_folder(&folder, MANIFEST)?;
        }
        if !folder.join(MANIFEST).exists() {
            let files = raw.files(&plan.data)?;
            check_context(plan, questions, &files)?;
            start::write(plan, files, &folder)?;
        } else if Manifest::read(&folder)?.recipe != json!(plan) {
            return Err(Error::usage("the folder holds an unfinished run of another configuration")
                .file(output)
                .next("give the same configuration again, another output folder, or --resume never"));
        }
        let start = Checkpoint::open(&folder.to_string_lossy())?;
        let tokenizer = start.tokenizer()?;
        let stream = |texts: &[String]| tokenizer::token_stream(&tokenizer, texts.iter().map(String::as_str));
        let length = plan.model.context;
        let mut valid = stream(&raw.valid)?;
        let windows = (valid.len() / length).min(plan.training.windows);
        if windows == 0 {
            return Err(Error::bad_data("the validation text holds no window of the model's context"));
        }
        valid.truncate(windows * length);
        let texts = Texts { train: Sequences::new(stream(&raw.train)?, length)?, valid, also: None };
        let settings = settings(plan, texts.train.count());
        Ok(Self { start, texts, settings })
    }
}

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
    fn files(&self, data: &Data) -> Result<Vec<(String, Vec<u8>)>> {
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
