//! `tamis pretrain`: a small model from nothing, and what it has learnt.

use std::time::Instant;

use serde_json::json;
use tamis::error::Error;
use tamis::load::Checkpoint;
use tamis::nano::exam::{Grades, Questions, Share, examine};
use tamis::pretrain::plan::{Data, Plan};
use tamis::pretrain::pretrain;
use tamis::recover::report::Account;
use tamis::recover::student::{Arithmetic, Checkpointing};

use super::recover::{summary, watched};
use crate::args;
use crate::opened::{Kernels, Mode, Opened, kernels};
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::peak_memory;

/// `tamis pretrain`.
pub(crate) fn run(args: &args::Pretrain) -> anyhow::Result<()> {
    let (started, begin) = (Instant::now(), peak_memory().unwrap_or(0));
    let plan = Plan::from_file(&args.config)?;
    let account = if args.exam { None } else { Some(train(args, &plan, begin)?) };
    let grades = grades(args, &plan)?;
    if args.shared.json {
        return print_json(&json!({ "tamis": {
            "output": args.output,
            "seconds": started.elapsed().as_secs_f64(),
            "plan": plan,
            "training": account,
            "exam": grades,
        }}));
    }
    let trained = account.map_or(String::new(), |account| summary(&account, &args.output));
    print_text(&format!("{trained}{}", grades.as_ref().map_or(String::new(), report)))
}

fn train(args: &args::Pretrain, plan: &Plan, begin: u64) -> anyhow::Result<Account> {
    let Kernels { ops, cache } = kernels(args.shared.threads, Mode::TRAINING)?;
    let how = Arithmetic { ops: &*ops, cache, exact: false, checkpointing: Checkpointing::Off };
    let mut account = watched("pretrain", args.shared.quiet, |watch| {
        pretrain(plan, how, (&args.output, args.found.policy()), watch).map_err(|e| e.or_file(&args.config))
    })?;
    (account.begin_memory_bytes, account.peak_memory_bytes) = (begin, peak_memory().unwrap_or(0));
    Ok(account)
}

/// What the model has learnt, where it was made for the synthetic corpus.
fn grades(args: &args::Pretrain, plan: &Plan) -> anyhow::Result<Option<Grades>> {
    let Data::Nano(corpus) = &plan.data else {
        return if args.exam {
            Err(Error::usage("only models of the synthetic corpus can be examined")
                .file(&args.config)
                .next("use a configuration with [data.nano], or tamis eval")
                .into())
        } else {
            Ok(None)
        };
    };
    let spec = args.output.to_string_lossy();
    Checkpoint::open(&spec)?;
    let opened = Opened::load(&spec, kernels(args.shared.threads, Mode::EXACT)?)?;
    Ok(Some(examine(&opened.engine, &opened.tokenizer, &corpus.plan(), Questions::default())?))
}

/// One line a faculty.
pub(crate) fn report(grades: &Grades) -> String {
    let mut table = Table::new(&["faculty", "measure", "result", "of"]);
    let mut row = |faculty: &str, measure: String, result: String, of: String| {
        table.row(vec![faculty.into(), measure, result, of]);
    };
    let entropy = format!("{:.4} is the entropy of the text", grades.entropy);
    row("utility", "grammar, nats per byte".into(), format!("{:.4}", grades.grammar), entropy);
    let share = |s: &Share| (format!("{:.1} %", 100.0 * s.value()), format!("{} of {}", s.right, s.asked));
    let mut line = |faculty: &str, measure: String, s: &Share| {
        let (result, of) = share(s);
        row(faculty, measure, result, of);
    };
    line("utility", "facts".into(), &grades.facts);
    line("reasoning", "two steps, seen in training".into(), &grades.seen_problems);
    line("reasoning", "two steps, never seen".into(), &grades.new_problems);
    for (times, secrets) in &grades.secrets {
        line("memory", format!("secrets told {times} times"), secrets);
    }
    line("memory", format!("secrets never told (chance {:.0e})", grades.chance), &grades.held_out_secrets);
    table.to_string()
}
