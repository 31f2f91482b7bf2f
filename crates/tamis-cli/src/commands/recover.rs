//! `tamis recover`: plan, train, measure, write.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tamis::calibrate::Documents;
use tamis::error::Error;
use tamis::load::Checkpoint;
use tamis::memory::available;
use tamis::recover::estimate::Estimate;
use tamis::recover::report::{Account, Point};
use tamis::recover::run::{Event, Run, Watch};
use tamis::recover::sequences::Sequences;
use tamis::recover::settings::{Losses, Optimiser, Schedule, Settings};
use tamis::recover::student::{Arithmetic, Checkpointing};
use tamis::recover::trainable::{Extras, LoraSpec, Method, Spec};
use tamis::recover::trainer::Texts;
use tamis::workers::Workers;

mod flags;
mod local;
mod stages;

use super::compress::{there, token_stream};
use crate::args::{self, RecoverMethod, ScheduleName, TrainPart};
use crate::opened::{Kernels, Mode, kernels};
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::team::check_alike;
use crate::terminal::{Progress, human_bytes, peak_memory};

/// `tamis recover`.
pub(crate) fn run(args: &args::Recover, workers: &dyn Workers) -> anyhow::Result<()> {
    flags::check(args)?;
    if args.method == RecoverMethod::Local {
        return local::run(args);
    }
    let (started, begin) = (Instant::now(), peak_memory().unwrap_or(0));
    let checkpoint = Checkpoint::open(&args.model)?;
    let teacher = args.teacher.as_deref().map(Checkpoint::open).transpose()?;
    let texts = texts(args, &checkpoint)?;
    let settings = settings(args, &texts, teacher.is_some());
    let Kernels { ops, cache } = kernels(args.shared.threads, Mode::TRAINING)?;
    let checkpointing = if args.recompute { Checkpointing::Blocks } else { Checkpointing::Off };
    let run = Run {
        workers,
        checkpoint: &checkpoint,
        teacher: teacher.as_ref(),
        how: Arithmetic { ops: &*ops, cache, exact: false, checkpointing },
        settings: &settings,
        texts: &texts,
        output: &args.output,
        policy: args.found.policy(),
        teacher_cache: args.teacher_cache.as_deref(),
    };
    if args.dry_run {
        return match (workers.is_first(), &args.pruning.stages) {
            (false, _) => Ok(()),
            (true, None) => dry_run(args, &settings, &run.estimate()?),
            (true, Some(shares)) => stages::dry_run(args, shares, run),
        };
    }
    check_alike(workers)?;
    let quiet = args.shared.quiet || !workers.is_first();
    let mut account = match &args.pruning.stages {
        None => watched("recover", quiet, |watch| run.carry_out(watch).map_err(|e| e.or_file(&args.model)))?,
        Some(shares) => stages::carry_out(args, shares, run)?,
    };
    if !workers.is_first() {
        return Ok(());
    }
    (account.begin_memory_bytes, account.peak_memory_bytes) = (begin, peak_memory().unwrap_or(0));
    if args.shared.json {
        return print_json(&json!({ "tamis": {
            "output": args.output,
            "seconds": started.elapsed().as_secs_f64(),
            "settings": settings,
            "recovery": account,
        }}));
    }
    print_text(&summary(&account, &args.output))
}

/// Carries out a training run with a progress bar; a signal ends it after the step at hand, or at once before the
/// first.
pub(crate) fn watched(
    title: &str,
    quiet: bool,
    train: impl FnOnce(&mut Watch<'_>) -> Result<Account, Error>,
) -> anyhow::Result<Account> {
    let mut bar = Progress::new(title, quiet);
    let (mut stage, mut dense) = (String::new(), None);
    let account = train(&mut |event| {
        let saves = matches!(event, Event::Step(_) | Event::Prune(_));
        match event {
            Event::Begin(estimate, of_dense) => {
                dense = of_dense;
                let told = dense.map_or(String::new(), |p| format!(", dense perplexity {p:.3}"));
                bar.update(0, 1, &format!("{stage}planned peak {}{told}", human_bytes(estimate.peak)));
            }
            Event::Before(perplexity) => bar.note(&format!("{stage}{}", before(perplexity, dense))),
            Event::Step(p) => {
                let valid = p.point.map_or(String::new(), |p| format!(", validation {:.3}", p.perplexity()));
                bar.update(p.step as u64, p.steps as u64, &format!("{stage}loss {:.4}{valid}", p.loss));
            }
            Event::Stage(place) => {
                let zeros = 100.0 * place.sparsity.get();
                stage = format!("stage {} of {} ({zeros:.1} % zeros): ", place.number, place.count);
            }
            Event::Prune(step) => {
                bar.update(step.done as u64, step.total as u64, &format!("{stage}{}", step.what));
            }
        }
        if saves { stop::safe_place() } else { stop::asked() }
    });
    bar.finish();
    Ok(account?)
}

/// What is known before any training, and a warning where little can be hoped for.
fn before(perplexity: f64, dense: Option<f64>) -> String {
    let Some(dense) = dense else { return format!("perplexity before training {perplexity:.3}") };
    let times = perplexity / dense;
    let hopeless = if times > HOPELESS {
        "; so much seldom comes back: prune less, by another recipe (tiers50, sparsegpt50), or in --stages"
    } else {
        ""
    };
    format!("perplexity before training {perplexity:.3}, {times:.2} times the dense {dense:.3}{hopeless}")
}

/// Times the dense model's perplexity above which a user is warned.
const HOPELESS: f64 = 10.0;

fn texts(args: &args::Recover, checkpoint: &Checkpoint) -> anyhow::Result<Texts> {
    let length = flags::length(args, checkpoint)?;
    let tokens = |file: &Path| token_stream(checkpoint, Documents::open(file)?).map_err(|e| e.or_file(file));
    let windows = |file: &Path| -> Result<Vec<u32>, Error> {
        let mut tokens = tokens(file)?;
        let count = (tokens.len() / length).min(args.windows);
        if count == 0 {
            let problem = format!("{} tokens hold no window of {length}", tokens.len());
            return Err(Error::bad_data(problem).file(file).next("give more text, or a smaller --length"));
        }
        tokens.truncate(count * length);
        Ok(tokens)
    };
    Ok(Texts {
        train: Sequences::new(tokens(&args.data)?, length).map_err(|e| e.or_file(&args.data))?,
        valid: windows(
            args.valid
                .as_deref()
                .ok_or_else(|| Error::usage("no validation text").next("pass --valid FILE"))?,
        )?,
        also: args.also_valid.as_deref().map(windows).transpose()?,
    })
}

fn settings(args: &args::Recover, texts: &Texts, taught: bool) -> Settings {
    let sequences = match (args.sequences, args.epochs) {
        (Some(sequences), _) => sequences,
        (None, epochs) => (epochs.unwrap_or(1.0) * texts.train.count() as f64).ceil() as usize,
    };
    let steps = args.steps.unwrap_or(sequences.div_ceil(args.batch.max(1)));
    let scale = if args.scale_lr { (args.batch as f64).sqrt() } else { 1.0 };
    let or = |asked: Option<f32>, taught_value: f32, alone: f32| {
        asked.unwrap_or(if taught { taught_value } else { alone })
    };
    Settings {
        spec: spec(args),
        losses: Losses {
            next_token: or(args.next_token, 0.0, 1.0),
            distillation: or(args.distill, 1.0, 0.0),
            feature: args.feature,
            temperature: args.temperature,
            top: args.top,
        },
        optimiser: optimiser(args, scale, (steps / 20).min(100)),
        steps,
        skip: 0,
        batch: args.batch,
        length: texts.train.length(),
        dropout: args.dropout,
        residual: args.residual,
        every: args.every.unwrap_or(steps.div_ceil(10)).max(1),
        keep: args.keep_best,
        windows: args.windows,
        patience: args.patience,
        improvement: args.improvement,
        seed: args.seed,
        recompute: args.recompute,
    }
}

fn optimiser(args: &args::Recover, scale: f64, warmup: usize) -> Optimiser {
    // A block by itself bears larger steps than all of them one behind the other.
    let usual = if args.method == RecoverMethod::Local { 2e-3 } else { 1e-4 };
    Optimiser {
        lr: args.lr.unwrap_or(usual) * scale,
        schedule: match args.schedule {
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::Linear => Schedule::Linear,
            ScheduleName::Constant => Schedule::Constant,
        },
        warmup: args.warmup.unwrap_or(warmup),
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: args.weight_decay,
        clip: args.clip,
    }
}

fn spec(args: &args::Recover) -> Spec {
    let method = match args.method {
        RecoverMethod::Masked | RecoverMethod::Local => Method::Masked,
        RecoverMethod::Masklora => Method::MaskLora,
        RecoverMethod::Lora => Method::Lora,
        RecoverMethod::Full => Method::Full,
    };
    let usual: &[TrainPart] = match method {
        Method::Full => &[TrainPart::Norms, TrainPart::Embedding],
        Method::Masked | Method::MaskLora => &[TrainPart::Norms],
        Method::Lora => &[],
    };
    let parts = args.train.as_deref().unwrap_or(usual);
    Spec {
        method,
        lora: LoraSpec {
            rank: args.rank,
            alpha: args.lora_alpha,
            rank_stabilised: args.rslora,
            targets: args.targets.clone(),
        },
        extras: Extras {
            norms: parts.contains(&TrainPart::Norms),
            embedding: parts.contains(&TrainPart::Embedding),
        },
        seed: args.seed,
    }
}

fn dry_run(args: &args::Recover, settings: &Settings, estimate: &Estimate) -> anyhow::Result<()> {
    let available = available();
    if args.shared.json {
        print_json(&json!({ "tamis": {
            "dry_run": true, "settings": settings, "estimate": estimate, "available": available,
        }}))?;
        return Ok(estimate.plan().check()?);
    }
    let mut table = Table::new(&["memory", "planned"]);
    let parts = [
        ("the model as it runs", estimate.student),
        ("the teacher", estimate.teacher),
        ("masters, gradients, moments", estimate.optimiser),
        ("weights that additions start from", estimate.base),
        ("written down on the way forward", estimate.tape),
        ("streams that are compared", estimate.features),
        ("the widest moment besides", estimate.work),
        ("text", estimate.text),
        ("program", estimate.program),
        ("peak", estimate.peak),
    ];
    parts.into_iter().for_each(|(name, bytes)| table.row(vec![name.into(), human_bytes(bytes)]));
    let tokens = settings.steps.saturating_mul(settings.batch).saturating_mul(settings.length);
    print_text(&format!(
        "{table}{}\n{} steps of {} sequences of {} tokens, {tokens} in all\nnothing was written (--dry-run)\n",
        there(available.as_ref()),
        settings.steps,
        settings.batch,
        settings.length
    ))?;
    Ok(estimate.plan().check()?)
}

pub(crate) fn summary(account: &Account, output: &Path) -> String {
    let table = if account.stages.is_empty() { validations(account) } else { stages::table(account) };
    table + &totals(account, output)
}

fn validations(account: &Account) -> String {
    let mut table = Table::new(&[
        "step",
        "epoch",
        "validation",
        "trend",
        "recovered",
        "also",
        "loss",
        "rate",
        "tokens/s",
    ]);
    for point in &account.history {
        table.row(row(point, account));
    }
    table.to_string()
}

fn totals(account: &Account, output: &Path) -> String {
    let percent = |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.1} %", 100.0 * s));
    let number = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.3}"));
    let mut text = format!(
        "\nperplexity: dense {}, before {:.3}, after {:.3}, best {:.3} (step {}), as saved {:.3}; {:+.1} %, \
         recovered {}, gap {}\n",
        number(account.dense_perplexity),
        account.before,
        account.after,
        account.best,
        account.best_step,
        account.saved,
        account.trend_percent,
        percent(account.recovered_fraction),
        number(account.gap),
    );
    if let Some([before, after, saved]) = account.also {
        let dense = number(account.dense_also);
        text += &format!(
            "second text: dense {dense}, before {before:.3}, after {after:.3}, as saved {saved:.3}\n"
        );
    }
    for kept in &account.kept {
        text +=
            &format!("also kept: {} of step {}, perplexity {:.3}\n", kept.folder, kept.step, kept.perplexity);
    }
    text + &format!(
        "{} tokens at {:.0} a second; {} numbers trained; memory: begin {}, peak {}, planned {}; mask violations: {}\n\
         wrote {}\n",
        account.tokens,
        account.tokens_per_second,
        account.trained_parameters,
        human_bytes(account.begin_memory_bytes),
        human_bytes(account.peak_memory_bytes),
        human_bytes(account.predicted_memory_bytes),
        account.mask_violations,
        output.display(),
    )
}

fn row(point: &Point, account: &Account) -> Vec<String> {
    let trend = 100.0 * (point.perplexity() / account.before - 1.0);
    let fraction = Account::fraction(account.before, point.perplexity(), account.dense_perplexity);
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    vec![
        point.step.to_string(),
        format!("{:.2}", point.epoch),
        format!("{:.3}", point.perplexity()),
        format!("{trend:+.1} %"),
        fraction.map_or("-".into(), |f| format!("{:.1} %", 100.0 * f)),
        number(point.also.map(f64::exp), 3),
        number(point.divergence.filter(|d| *d > 0.0).or(point.train), 4),
        format!("{:.2e}", point.rate),
        number(point.tokens_per_second, 0),
    ]
}
