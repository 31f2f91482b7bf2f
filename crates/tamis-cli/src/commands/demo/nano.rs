//! `tamis demo` on the model that comes with the program: what compression takes from grammar, facts, arithmetic
//! and memory, and what training gives back. Needs no file and no network.

use std::path::{Path, PathBuf};

use serde_json::json;
use tamis::artifact::{Existing, Resume, inspect};
use tamis::disk::{atomic, create_folder};
use tamis::error::Error;
use tamis::job::Job;
use tamis::load::Checkpoint;
use tamis::nano::exam::{Grades, Questions, Share, examine};
use tamis::nano::{Corpus, CorpusPlan, tokenizer};
use tamis::pretrain::plan::{Data, Plan};
use tamis::recipe::{Calibration, Recipe};
use tamis::recover::run::Run;
use tamis::recover::sequences::Sequences;
use tamis::recover::settings::{Losses, Optimiser, Schedule, Settings};
use tamis::recover::student::{Arithmetic, Checkpointing};
use tamis::recover::trainable::{Extras, LoraSpec, Method, Spec};
use tamis::recover::trainer::Texts;
use tamis::units::Sparsity;
use tamis::workers::Alone;

use super::Folder;
use crate::args;
use crate::commands::compress::{calibration, carry_out};
use crate::commands::recover::watched;
use crate::opened::{Kernels, Mode, Opened, Room, crew, kernels};
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::human_bytes;

/// The model, as `tamis pretrain` wrote it.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../assets/nano-model/config.json")),
    ("manifest.json", include_bytes!("../../../assets/nano-model/manifest.json")),
    ("model.safetensors", include_bytes!("../../../assets/nano-model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../assets/nano-model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/nano-model/tokenizer_config.json")),
];
const PLAN: &str = include_str!("../../../assets/nano-model/nano.toml");
/// Text for calibration and recovery, of the kind that the model was trained on.
const BYTES: usize = 1_000_000;
const SAMPLES: usize = 32;
const STEPS: usize = 150;
const HOLES: &str = "80 % pruned";

/// A compressed model and how it did.
struct Line {
    name: String,
    bytes: u64,
    bits_per_weight: f64,
    grades: Grades,
}

pub(super) fn run(args: &args::Demo) -> anyhow::Result<()> {
    let plan = Plan::parse(PLAN, Path::new("nano.toml"))?;
    let Data::Nano(data) = &plan.data else {
        return Err(Error::defect("the embedded model has no corpus").into());
    };
    let folder = Folder::create(args)?;
    let demo = Demo { args, corpus: data.plan(), folder: &folder.path };
    let original = folder.path.join("nano");
    unpack(&original)?;
    // Without the secrets: what is still known of them afterwards was not told again.
    let corpus = Corpus::generate(&CorpusPlan { bytes: BYTES, ..data.plan() })?;
    let texts: Vec<String> = corpus.public_texts().map(str::to_owned).collect();
    let mut lines = vec![demo.graded("original, 16 bits", &original)?];
    for (name, recipe) in [
        ("2 bits, rounded", Recipe::named("rtn2")?),
        ("2 bits, with ortho", Recipe::named("int2-ortho")?),
        (HOLES, holes()?),
    ] {
        let output = demo.compress(&original, (name, &recipe), &texts)?;
        lines.push(demo.graded(name, &output)?);
    }
    let mended = demo.recover(&folder.path.join(HOLES), &original, &texts)?;
    lines.push(demo.graded("the same, mended", &mended)?);
    report(args, &lines)
}

/// SparseGPT, beyond what a model bears without being trained again.
fn holes() -> Result<Recipe, Error> {
    let mut recipe = Recipe::named("sparsegpt50")?;
    recipe.leave_out(Sparsity::new(0.8)?)?;
    Ok(recipe)
}

/// Writes the embedded files; a folder of an earlier demo has the same.
fn unpack(folder: &Path) -> Result<(), Error> {
    create_folder(folder)?;
    FILES.iter().try_for_each(|(name, bytes)| atomic::write(&folder.join(name), bytes))
}

struct Demo<'a> {
    args: &'a args::Demo,
    corpus: CorpusPlan,
    folder: &'a Path,
}

impl Demo<'_> {
    fn graded(&self, name: &str, model: &Path) -> anyhow::Result<Line> {
        let kernels = kernels(self.args.shared.threads, Mode::EXACT)?;
        let opened = Opened::load(&model.to_string_lossy(), kernels, Room::exam())?;
        let inspection = inspect(&opened.checkpoint)?;
        Ok(Line {
            name: name.into(),
            bytes: inspection.file_bytes,
            bits_per_weight: inspection.bits_per_weight,
            grades: examine(&opened.engine, &opened.tokenizer, &self.corpus, Questions::default())?,
        })
    }

    fn compress(
        &self,
        model: &Path,
        (name, recipe): (&str, &Recipe),
        texts: &[String],
    ) -> anyhow::Result<PathBuf> {
        let output = self.folder.join(name);
        let checkpoint = Checkpoint::open(&model.to_string_lossy())?;
        let ops = kernels(self.args.shared.threads, Mode::CALIBRATION)?.ops;
        let length = checkpoint.config().context;
        let size = Calibration { samples: SAMPLES, length, seed: 0 };
        let job = Job {
            checkpoint: &checkpoint,
            recipe,
            calibration: Some(calibration(&checkpoint, texts.iter().cloned().map(Ok), size, 0)?),
            ops: &*ops,
            threads: crew(self.args.shared.threads)?,
            workers: &Alone,
            output: &output,
            policy: (Resume::Auto, Existing::Overwrite),
        };
        carry_out(&job, self.args.shared.quiet)?;
        stop::at_once();
        Ok(output)
    }

    fn recover(&self, model: &Path, dense: &Path, texts: &[String]) -> anyhow::Result<PathBuf> {
        let output = self.folder.join("mended");
        let open = |path: &Path| Checkpoint::open(&path.to_string_lossy());
        let (checkpoint, teacher) = (open(model)?, open(dense)?);
        let length = checkpoint.config().context;
        let stream = tokenizer::token_stream(&checkpoint.tokenizer()?, texts.iter().map(String::as_str))?;
        let (train, valid) = stream.split_at(stream.len() - 16 * length);
        let texts =
            Texts { train: Sequences::new(train.to_vec(), length)?, valid: valid.to_vec(), also: None };
        let settings = settings(length);
        let Kernels { ops, cache } = kernels(self.args.shared.threads, Mode::TRAINING)?;
        let run = Run {
            workers: &Alone,
            checkpoint: &checkpoint,
            teacher: Some(&teacher),
            how: Arithmetic { ops: &*ops, cache, exact: false, checkpointing: Checkpointing::Off },
            settings: &settings,
            texts: &texts,
            output: &output,
            policy: (Resume::Auto, Existing::Overwrite),
            teacher_cache: None,
        };
        watched("mend", self.args.shared.quiet, |watch| run.carry_out(watch))?;
        stop::at_once();
        Ok(output)
    }
}

/// Masked weights learn from the dense model.
fn settings(length: usize) -> Settings {
    Settings {
        spec: Spec {
            method: Method::Masked,
            lora: LoraSpec { rank: 1, alpha: 1.0, rank_stabilised: false, targets: vec![] },
            extras: Extras { norms: true, embedding: false },
            seed: 0,
        },
        losses: Losses { next_token: 0.0, distillation: 1.0, feature: 0.0, temperature: 1.0, top: 64 },
        optimiser: Optimiser {
            lr: 1e-3,
            schedule: Schedule::Cosine,
            warmup: 10,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
        },
        steps: STEPS,
        skip: 0,
        batch: 8,
        length,
        dropout: 0.0,
        residual: false,
        every: STEPS,
        keep: 1,
        windows: 16,
        patience: None,
        improvement: 0.0,
        seed: 0,
        recompute: false,
    }
}

fn report(args: &args::Demo, lines: &[Line]) -> anyhow::Result<()> {
    if args.shared.json {
        let row = |l: &Line| {
            json!({
                "name": l.name, "bytes": l.bytes, "bits_per_weight": l.bits_per_weight, "grades": l.grades,
            })
        };
        return print_json(&json!({ "model": "nano", "rows": lines.iter().map(row).collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&[
        "",
        "size",
        "bits/weight",
        "grammar",
        "facts",
        "sums seen",
        "sums new",
        "secrets",
        "guessed",
    ]);
    let percent = |share: &Share| format!("{:.0} %", 100.0 * share.value());
    for line in lines {
        let grades = &line.grades;
        let most_told = grades.secrets.last().map_or("-".into(), |(_, share)| percent(share));
        table.row(vec![
            line.name.clone(),
            human_bytes(line.bytes),
            format!("{:.2}", line.bits_per_weight),
            format!("{:.3}", grades.grammar),
            percent(&grades.facts),
            percent(&grades.seen_problems),
            percent(&grades.new_problems),
            most_told,
            percent(&grades.held_out_secrets),
        ]);
    }
    let entropy = lines.first().map_or(0.0, |line| line.grades.entropy);
    print_text(&format!(
        "\n{table}\n\
         grammar: nats per byte, {entropy:.3} is what the generator of the text itself has; facts, sums of two\n\
         steps and secrets that were told 64 times: answered word for word; guessed: secrets never told.\n\
         The model has 1.9 million weights and comes with the program; docs/nano says how it was made.\n\
         \nnext:\n  scripts/get-smollm2.sh\n  tamis demo --model models/SmolLM2-135M-Instruct.Q4_1.gguf\n"
    ))
}
