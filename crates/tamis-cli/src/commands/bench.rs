//! `tamis bench`: how fast a model runs, and how far from the limits of this machine.

mod render;

use std::num::NonZeroUsize;
use std::time::Instant;

use tamis::artifact::inspect;
use tamis::bench::report::Measured;
use tamis::bench::{
    Bench, Case, Costs, Facts, Machine, Plan, Row, Rules, Sample, Test, Warmup, weight_bytes,
};
use tamis::error::Error;
use tamis::load::{Checkpoint, Ortho};
use tamis::model::Decoder;
use tamis::ops::Precision;
use tamis::units::Alpha;

use crate::args::{self, BenchOutput};
use crate::opened::{isa, kernels, threads};
use crate::streams::print_text;
use crate::terminal::{Progress, peak_memory};

/// `tamis bench`.
pub(crate) fn run(args: &args::Bench) -> anyhow::Result<()> {
    let output = if args.json { BenchOutput::Json } else { args.output };
    if output == BenchOutput::Csv && args.roofline && args.model.is_some() {
        let problem = Error::usage("one CSV cannot hold both tests and limits")
            .next("leave --roofline out, or choose -o json");
        return Err(problem.next("give --roofline -o csv without a model, or use -o json").into());
    }
    let rules = rules(args)?;
    let mut machine = Machine::new(rules.isa);
    let rows = args.model.as_ref().map(|spec| measured(args, spec, &rules, &mut machine)).transpose()?;
    let limits = args.roofline.then(|| machine.table(&all_threads(args))).transpose()?;
    print_text(&render::text(output, rows.as_deref(), limits.as_deref())?)
}

fn rules(args: &args::Bench) -> anyhow::Result<Rules> {
    let mode = args.running.or(Precision::Int8);
    Ok(Rules {
        batch: args.batch,
        repetitions: args.repetitions,
        warmup: if args.no_warmup { Warmup::None } else { Warmup::Once },
        isa: isa()?,
        precision: mode.precision,
        cache: mode.cache,
    })
}

fn all_threads(args: &args::Bench) -> Vec<NonZeroUsize> {
    if args.threads.is_empty() { vec![threads(None)] } else { args.threads.clone() }
}

/// All tests of a model. The limits are measured last, so that their buffers are not counted as
/// memory of the model.
fn measured(
    args: &args::Bench,
    spec: &str,
    rules: &Rules,
    machine: &mut Machine,
) -> anyhow::Result<Vec<Row>> {
    let begin = Instant::now();
    let checkpoint = Checkpoint::open(spec)?;
    let has_ortho = checkpoint.tensors().ortho() == Ortho::Present;
    let plan = plan(args, has_ortho)?;
    let cases = plan.cases()?;
    let ops = kernels(args.threads.iter().max().copied(), args.running.or(Precision::Int8))?.ops;
    let mut decoder = Decoder::load(&checkpoint, &*ops).map_err(|e| e.or_file(checkpoint.path()))?;
    drop(ops);
    let load_seconds = begin.elapsed().as_secs_f64();
    decoder.extend_context(plan.positions())?;
    let facts = Facts {
        model: spec.to_owned(),
        file_bytes: inspect(&checkpoint)?.file_bytes,
        weight_bytes: weight_bytes(&decoder),
        context: checkpoint.config().context,
        has_ortho,
        load_seconds,
    };
    let mut rows = Vec::new();
    for (case, samples, peak_memory) in timed(&decoder, *rules, &cases, args.quiet)? {
        let cost = Costs::of(&decoder, case.alpha, rules.cache).test(case.test, case.depth, rules.batch);
        let limits = machine.limits(&case, cost, rules.precision)?;
        let measured = Measured { case: &case, samples: &samples, cost, limits, peak_memory };
        rows.extend(Row::new(&facts, rules, measured));
    }
    Ok(rows)
}

/// A case, its samples, and the most memory held when it ended.
type Timed = (Case, Vec<Sample>, Option<u64>);

fn timed(decoder: &Decoder, rules: Rules, cases: &[Case], quiet: bool) -> anyhow::Result<Vec<Timed>> {
    let mut bar = Progress::new("bench", quiet);
    let runs_a_case = rules.repetitions.get() + usize::from(rules.warmup == Warmup::Once);
    let total = (cases.len() * runs_a_case) as u64;
    let mut done = 0;
    let mut bench = Bench::new(decoder, rules);
    let mut all = Vec::new();
    for case in cases {
        bar.update(done, total, &case.to_string());
        let samples = bench.run(case, &mut || {
            done += 1;
            bar.update(done, total, &case.to_string());
        })?;
        all.push((*case, samples, peak_memory()));
    }
    bar.finish();
    Ok(all)
}

fn plan(args: &args::Bench, has_ortho: bool) -> anyhow::Result<Plan> {
    if !args.alpha.is_empty() && !has_ortho {
        return Err(Error::usage("this model has no ortho stream").next("leave --alpha out").into());
    }
    let alphas = args.alpha.iter().map(|a| Alpha::new(*a)).collect::<Result<Vec<_>, _>>()?;
    let prompts = args.prompt.iter().map(|&p| Test::new(p, 0));
    let singles = args.generate.iter().map(|&n| Test::new(0, n));
    let pairs = args.pg.iter().map(|&(p, n)| Test::new(p, n));
    Ok(Plan {
        tests: prompts.chain(singles).chain(pairs).flatten().collect(),
        depths: args.depth.clone(),
        alphas: if alphas.is_empty() { vec![Alpha::ONE] } else { alphas },
        threads: all_threads(args),
    })
}
