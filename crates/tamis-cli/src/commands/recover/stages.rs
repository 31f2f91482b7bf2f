//! `tamis recover --stages`: prune, train, prune more.

use serde_json::json;
use tamis::calibrate::read_documents;
use tamis::compress::Threads;
use tamis::error::Error;
use tamis::job::Calibration;
use tamis::load::Checkpoint;
use tamis::recipe::{self, Recipe};
use tamis::recover::report::Account;
use tamis::recover::run::Run;
use tamis::recover::stages::{Pruning, Stages, cubic};
use tamis::units::Sparsity;

use super::watched;
use crate::args;
use crate::commands::compress::calibration;
use crate::opened::{Mode, kernels, threads};
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::human_bytes;

/// The usual recipe of a stage.
const RECIPE: &str = "sparsegpt50";

/// Prunes and trains stage by stage.
pub(super) fn carry_out(args: &args::Recover, shares: &[f64], run: Run<'_>) -> anyhow::Result<Account> {
    planned(args, shares, run, |stages| {
        watched("recover", args.shared.quiet, |watch| {
            stages.carry_out(watch).map_err(|e| e.or_file(&args.model))
        })
    })
}

/// Prints what the stages will do and take.
pub(super) fn dry_run(args: &args::Recover, shares: &[f64], run: Run<'_>) -> anyhow::Result<()> {
    planned(args, shares, run, |stages| {
        let (training, pruning) = stages.estimate()?;
        let settings: Vec<_> = (0..stages.sparsities.len()).map(|index| stages.settings(index)).collect();
        if args.shared.json {
            return print_json(&json!({ "tamis": {
                "dry_run": true, "stages": settings, "estimate": training, "pruning": pruning,
            }}));
        }
        let mut table = Table::new(&["stage", "zeros", "steps", "tokens"]);
        for (number, (settings, sparsity)) in (1..).zip(settings.iter().zip(&stages.sparsities)) {
            let tokens = settings.steps * settings.batch * settings.length;
            table.row(vec![
                number.to_string(),
                percent(sparsity.get()),
                settings.steps.to_string(),
                tokens.to_string(),
            ]);
        }
        let (training, pruning) = (human_bytes(training.peak), human_bytes(pruning.peak));
        print_text(&format!(
            "{table}\nplanned peak memory: {training} to train, {pruning} to prune\nnothing was written (--dry-run)\n"
        ))
    })
}

/// Hands the plan to `then`.
fn planned<T>(
    args: &args::Recover,
    shares: &[f64],
    run: Run<'_>,
    then: impl FnOnce(&Stages<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let recipe = Recipe::open(args.pruning.recipe.as_deref().unwrap_or(RECIPE))?;
    let ops = kernels(args.shared.threads, Mode::CALIBRATION)?.ops;
    let calibration = windows(args, &recipe, run.checkpoint)?;
    let threads = Threads::new(threads(args.shared.threads));
    let pruning = Pruning { recipe: &recipe, calibration, ops: &*ops, threads };
    let sparsities = sparsities(shares, args.pruning.cubic)?;
    then(&Stages { run, pruning, sparsities })
}

/// The shares as they stand, or the first and the last of a cubic schedule.
fn sparsities(shares: &[f64], stages: Option<usize>) -> Result<Vec<Sparsity>, Error> {
    let all = match (stages, shares) {
        (None, shares) => shares.to_vec(),
        (Some(count), [last]) => cubic(None, *last, count)?,
        (Some(count), [first, last]) => cubic(Some(*first), *last, count)?,
        (Some(_), _) => {
            return Err(Error::usage(
                "a cubic schedule has one or two shares of zeros: the last, or first and last",
            )
            .next("try --stages 0.9 --cubic 4"));
        }
    };
    all.into_iter().map(Sparsity::new).collect()
}

fn windows(
    args: &args::Recover,
    recipe: &Recipe,
    checkpoint: &Checkpoint,
) -> Result<Option<Calibration>, Error> {
    let Some(file) = &args.pruning.calibration else { return Ok(None) };
    let usual = recipe.calibration;
    let choice = recipe::Calibration {
        samples: args.pruning.samples.unwrap_or(usual.samples),
        length: usual.length.min(checkpoint.config().context),
        seed: usual.seed,
    };
    let documents = read_documents(file)?;
    calibration(checkpoint, &documents, choice, recipe.allocation.windows())
        .map(Some)
        .map_err(|e| e.or_file(file))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// One line a stage.
pub(super) fn table(account: &Account) -> String {
    let mut table = Table::new(&["stage", "zeros", "steps", "before", "after", "best", "as saved"]);
    for (number, stage) in (1..).zip(&account.stages) {
        let perplexities = [stage.before, stage.after, stage.best, stage.saved];
        let mut row = vec![number.to_string(), percent(stage.sparsity), stage.steps.to_string()];
        row.extend(perplexities.map(|p| format!("{p:.3}")));
        table.row(row);
    }
    table.to_string()
}
