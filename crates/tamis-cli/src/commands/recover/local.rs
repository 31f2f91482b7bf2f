//! `tamis recover --method local`: block by block.

use std::time::Instant;

use serde_json::json;
use tamis::artifact::check_free;
use tamis::calibrate::{Documents, choose_windows};
use tamis::disk::digest::sha256;
use tamis::error::Error;
use tamis::job::rewrite::Notes;
use tamis::load::Checkpoint;
use tamis::memory::available;
use tamis::recover::local::{BlockReport, LocalSettings, Reconstruction, steps};
use tamis::recover::student::{Arithmetic, Checkpointing};

use super::{flags, optimiser, spec};
use crate::args;
use crate::commands::compress::{there, token_stream};
use crate::opened::{Kernels, Mode, kernels};
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::{Progress, human_bytes, peak_memory};

/// Windows that every block learns on, where nothing is asked for.
const WINDOWS: usize = 128;
/// Passes over them.
const EPOCHS: usize = 2;

pub(super) fn run(args: &args::Recover) -> anyhow::Result<()> {
    let started = Instant::now();
    let teacher = args.teacher.as_deref().ok_or_else(|| {
        Error::usage("a block learns from its dense original, and there is none").next("pass --teacher MODEL")
    })?;
    let (checkpoint, teacher) = (Checkpoint::open(&args.model)?, Checkpoint::open(teacher)?);
    let length = flags::length(args, &checkpoint)?;
    let stream =
        token_stream(&checkpoint, Documents::open(&args.data)?).map_err(|e| e.or_file(&args.data))?;
    let windows =
        choose_windows(&stream, args.sequences.unwrap_or(WINDOWS), length, args.seed).map_err(|e| {
            e.or_file(&args.data).next("give more text, fewer --sequences, or a smaller --length")
        })?;
    let epochs = args.epochs.map_or(EPOCHS, |epochs| epochs.ceil() as usize).max(1);
    let optimiser = optimiser(args, 1.0, (steps(epochs, &windows) / 10).min(100));
    let settings = LocalSettings { spec: spec(args), optimiser, epochs, seed: args.seed };
    let Kernels { ops, cache } = kernels(args.shared.threads, Mode::TRAINING)?;
    let run = Reconstruction {
        checkpoint: &checkpoint,
        teacher: &teacher,
        how: Arithmetic { ops: &*ops, cache, exact: false, checkpointing: Checkpointing::Off },
        settings: &settings,
        windows: &windows,
        policy: args.found.policy(),
    };
    if args.dry_run {
        return dry_run(&run, args);
    }
    let recipe = json!({ "recover": settings });
    let identity = [recipe.to_string(), windows.digest(), teacher.fingerprint()?].concat();
    let notes = Notes { identity: sha256(identity.as_bytes()), recipe, seed: args.seed };
    let reports = carry_out(&run, args, notes)?;
    if args.shared.json {
        return print_json(&json!({ "tamis": {
            "output": args.output,
            "seconds": started.elapsed().as_secs_f64(),
            "peak_memory_bytes": peak_memory(),
            "blocks": reports,
        }}));
    }
    print_text(&summary(&reports, args, started))
}

fn dry_run(run: &Reconstruction<'_>, args: &args::Recover) -> anyhow::Result<()> {
    run.check()?;
    check_free(&args.output, args.found.policy())?;
    let (settings, plan, available) = (run.settings, run.plan(), available());
    if args.shared.json {
        print_json(&json!({ "tamis": {
            "dry_run": true, "settings": settings, "peak": plan.bytes, "available": available,
        }}))?;
    } else {
        print_text(&format!(
            "{} steps a block; planned peak memory: {}\n{}\nnothing was written (--dry-run)\n",
            steps(settings.epochs, run.windows),
            human_bytes(plan.bytes),
            there(available.as_ref()),
        ))?;
    }
    Ok(plan.check()?)
}

fn carry_out(
    run: &Reconstruction<'_>,
    args: &args::Recover,
    notes: Notes,
) -> anyhow::Result<Vec<BlockReport>> {
    let mut bar = Progress::new("recover", args.shared.quiet);
    let reports = run.carry_out(&args.output, notes, &mut |block, total| {
        let what = format!("block {}: {} to {:.4}", block.index, difference(block.before, 4), block.after);
        bar.update(block.index as u64 + 1, total as u64, &what);
        stop::safe_place()
    });
    bar.finish();
    Ok(reports.map_err(|e| e.or_file(&args.model))?)
}

/// Nothing is known of blocks that an earlier run has trained.
fn difference(before: Option<f64>, digits: usize) -> String {
    before.map_or("-".into(), |before| format!("{before:.digits$}"))
}

fn summary(reports: &[BlockReport], args: &args::Recover, started: Instant) -> String {
    let mut table = Table::new(&["block", "difference before", "after"]);
    for report in reports {
        table.row(vec![
            report.index.to_string(),
            difference(report.before, 5),
            format!("{:.5}", report.after),
        ]);
    }
    let memory = peak_memory().map_or("unknown".into(), human_bytes);
    let seconds = started.elapsed().as_secs_f64();
    format!("{table}wrote {} in {seconds:.1} s; peak memory {memory}\n", args.output.display())
}
