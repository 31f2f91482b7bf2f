//! `tamis compress`: plan, calibrate, quantise, write.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tamis::calibrate::{Document, Documents, choose_apart};
use tamis::error::{Error, Kind};
use tamis::job::{Calibration, Estimate, Job, Outcome, Share, Step};
use tamis::load::{AddSpecial, Checkpoint};
use tamis::memory::{Available, available};
use tamis::recipe::{self, EndBits, Pattern, Recipe};
use tamis::units::Sparsity;
use tamis::workers::Workers;

use crate::args;
use crate::opened::{Mode, crew, kernels};
use crate::stop;
use crate::streams::{log, print_json, print_text};
use crate::table::Table;
use crate::team::check_alike;
use crate::terminal::{Progress, human_bytes, peak_memory};

const PACKED_NOTE: &str = "note: transformers cannot load a folder with a packed embedding; \
--embedding 16 makes one that it can\n";

/// `tamis compress`.
pub(crate) fn run(args: &args::Compress, workers: &dyn Workers) -> anyhow::Result<()> {
    let started = Instant::now();
    let recipe = recipe(args).map_err(|e| e.or_file(&args.recipe))?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let calibration = args.calibration.as_deref().map(|file| calibrate(args, &recipe, &checkpoint, file));
    let ops = kernels(args.shared.threads, Mode::CALIBRATION)?.ops;
    let job = Job {
        checkpoint: &checkpoint,
        recipe: &recipe,
        calibration: calibration.transpose()?,
        ops: &*ops,
        threads: crew(args.shared.threads)?,
        workers,
        output: &args.output,
        policy: args.found.policy(),
    };
    let estimate = Estimate::of(&job).map_err(|e| e.or_file(&args.recipe))?;
    let warning = grows(&estimate, &recipe);
    if let (Some(warning), true, false) = (&warning, workers.is_first(), args.shared.quiet) {
        log(warning);
    }
    if args.dry_run {
        return if workers.is_first() { dry_run(args, &job, &estimate, warning) } else { Ok(()) };
    }
    check_alike(workers)?;
    let outcome = carry_out(&job, args.shared.quiet || !workers.is_first())?;
    if !workers.is_first() {
        return Ok(());
    }
    if args.shared.json {
        return print_json(&json!({
            "output": args.output,
            "recipe": recipe.name,
            "seconds": started.elapsed().as_secs_f64(),
            "peak_memory_bytes": peak_memory(),
            "estimate": estimate,
            "warning": warning,
            "outcome": outcome,
        }));
    }
    let note = if recipe.embedding == EndBits::Sixteen { "" } else { PACKED_NOTE };
    print_text(&format!("{}{note}", summary(&outcome, &estimate, started, &args.output)))
}

/// The recipe with what the command line changes in it.
fn recipe(args: &args::Compress) -> Result<Recipe, Error> {
    let mut recipe = Recipe::open(&args.recipe)?;
    if let Some(bits) = args.embedding {
        recipe.embedding = EndBits::try_from(bits)?;
        recipe.head = recipe.embedding;
    }
    if let Some(share) = args.sparsity.or(args.density.map(|density| 1.0 - density)) {
        recipe.leave_out(Sparsity::new(share)?)?;
    }
    if let Some(kept) = &args.kept {
        recipe.store_kept_as(kept.parse()?)?;
    }
    if let Some(over) = &args.allocation {
        recipe.allocate(over.parse()?)?;
    }
    args.skip
        .iter()
        .try_for_each(|pattern| recipe.skip(Pattern::new(pattern)?))
        .map_err(|e| e.of_kind(Kind::Usage))?;
    Ok(recipe)
}

/// Runs a job with a progress bar; a signal stops it at the next block boundary.
pub(crate) fn carry_out(job: &Job<'_>, quiet: bool) -> anyhow::Result<Outcome> {
    let mut bar = Progress::new("compress", quiet);
    let outcome = job.run(&mut |step: &Step| {
        bar.update(step.done as u64, step.total as u64, &step.what);
        stop::safe_place()
    });
    bar.finish();
    Ok(outcome.map_err(|e| e.or_file(job.checkpoint.path()))?)
}

fn calibrate(
    args: &args::Compress,
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    file: &Path,
) -> anyhow::Result<Calibration> {
    let defaults = recipe.calibration;
    let choice = recipe::Calibration {
        samples: args.samples.unwrap_or(defaults.samples),
        length: args.length.unwrap_or(defaults.length.min(checkpoint.config().context)),
        seed: args.seed.unwrap_or(defaults.seed),
    };
    let held_out = recipe.allocation.windows();
    Ok(calibration(checkpoint, Documents::open(file)?, choice, held_out).map_err(|e| e.or_file(file))?)
}

/// Tokenises `documents` one after the other, separated by the model's separator token, and chooses
/// windows, and `held_out` others.
pub(crate) fn calibration(
    checkpoint: &Checkpoint,
    documents: impl IntoIterator<Item = Result<Document, Error>>,
    recipe::Calibration { samples, length, seed }: recipe::Calibration,
    held_out: usize,
) -> Result<Calibration, Error> {
    let stream = token_stream(checkpoint, documents)?;
    let (windows, others) = choose_apart(&stream, (samples, held_out), length, seed)?;
    Ok(Calibration { windows, held_out: (held_out > 0).then_some(others), seed })
}

/// The tokens of all documents, with the separator that the model knows.
pub(crate) fn token_stream(
    checkpoint: &Checkpoint,
    documents: impl IntoIterator<Item = Result<Document, Error>>,
) -> Result<Vec<u32>, Error> {
    let tokenizer = checkpoint.tokenizer()?;
    let mut stream = Vec::new();
    for document in documents {
        if tokenizer.adds_bos() {
            stream.extend(tokenizer.bos());
        } else if !stream.is_empty() {
            stream.extend(tokenizer.eos().first());
        }
        stream.extend(tokenizer.encode(&document?, AddSpecial::Nothing)?);
    }
    let vocabulary = checkpoint.config().vocab;
    match stream.iter().find(|token| **token as usize >= vocabulary) {
        None => Ok(stream),
        Some(token) => Err(Error::bad_data(format!("token {token} is not in a vocabulary of {vocabulary}"))
            .file(checkpoint.path())
            .next("the tokenizer is not that of the model: fetch both again")),
    }
}

/// Told before a run whose result will be larger than its source.
fn grows(estimate: &Estimate, recipe: &Recipe) -> Option<String> {
    let Estimate { source, result, .. } = *estimate;
    let advice = match u32::from(recipe.embedding).max(recipe.head.into()) {
        16 => "embedding and head stay at 16 bits, --embedding 8 or --embedding 4 makes them smaller",
        8 => "embedding and head get 8 bits, --embedding 4 makes them smaller",
        _ => "choose a --recipe with fewer bits",
    };
    (result > source).then(|| {
        let (result, source) = (human_bytes(result), human_bytes(source));
        format!("warning: the result will take {result}, more than the {source} of the model: {advice}")
    })
}

fn dry_run(
    args: &args::Compress,
    job: &Job<'_>,
    estimate: &Estimate,
    warning: Option<String>,
) -> anyhow::Result<()> {
    job.check().map_err(|e| e.or_file(job.checkpoint.path()))?;
    job.check_output()?;
    let available = available();
    if args.shared.json {
        print_json(
            &json!({ "dry_run": true, "estimate": estimate, "warning": warning, "available": available }),
        )?;
    } else {
        let there = there(available.as_ref());
        print_text(&format!("{}{there}\nnothing was written (--dry-run)\n", estimate_table(estimate)))?;
    }
    Ok(estimate.plan().check()?)
}

/// One line about what a process may hold.
pub(crate) fn there(available: Option<&Available>) -> String {
    let told = |a: &Available| format!("\nthis process may hold {}: {}\n", human_bytes(a.bytes), a.limit);
    available.map_or(String::new(), told)
}

fn estimate_table(estimate: &Estimate) -> String {
    let mut table = Table::new(&["memory", "planned"]);
    let parts = [
        ("calibration activations", estimate.activations),
        ("one block", estimate.block),
        ("largest linear on the bench", estimate.bench),
        ("embedding, at the start", estimate.embedding),
        ("allocation, before the first block", estimate.allocation),
        ("program", estimate.program),
        ("peak", estimate.peak),
        ("the model, as it is", estimate.source),
        ("the result", estimate.result),
        ("disk", estimate.disk),
    ];
    parts.into_iter().for_each(|(name, bytes)| table.row(vec![name.into(), human_bytes(bytes)]));
    table.to_string()
}

/// An error that was measured, or a dash.
fn share(error: Option<f64>) -> String {
    error.map_or("-".into(), |e| format!("{e:.5}"))
}

/// What every unit loses, where they differ.
fn shares_table(shares: &[Share]) -> String {
    if shares.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["allocation", "zeros"]);
    shares.iter().for_each(|s| table.row(vec![s.unit.clone(), format!("{:.1} %", 100.0 * s.share)]));
    table.to_string()
}

fn summary(outcome: &Outcome, estimate: &Estimate, started: Instant, output: &Path) -> String {
    let mut table = Table::new(&[
        "linears",
        "count",
        "bits/weight",
        "zeros",
        "error, base",
        "error, +ortho",
        "damping",
        "dead in",
        "dead out",
        "fallbacks",
    ]);
    for (name, group) in outcome.groups() {
        table.row(vec![
            name.into(),
            group.linears.to_string(),
            format!("{:.3}", group.bits_per_weight),
            format!("{:.1} %", 100.0 * group.sparsity),
            share(group.base_error),
            share(group.error),
            format!("{}", group.damping),
            group.dead_columns.to_string(),
            group.dead_outputs.to_string(),
            group.fallbacks.to_string(),
        ]);
    }
    let mut text = table.to_string() + &shares_table(&outcome.shares);
    for (name, reason) in outcome.fallbacks() {
        text += &format!("fallback to round-to-nearest: {name}: {reason}\n");
    }
    if outcome.resumed_parts > 0 {
        text += &format!("{} parts were taken over from an earlier run\n", outcome.resumed_parts);
    }
    let measured = peak_memory().map_or("unknown".into(), human_bytes);
    text + &format!(
        "wrote {} ({}) in {:.1} s; peak memory {measured}, planned {}\n",
        output.display(),
        human_bytes(outcome.file_bytes),
        started.elapsed().as_secs_f64(),
        human_bytes(estimate.peak),
    )
}
