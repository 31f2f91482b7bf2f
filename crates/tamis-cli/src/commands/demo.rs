//! `tamis demo`: compress, measure and run a real model, in one table; the model that comes with tamis where none
//! is named.

mod nano;

use std::path::{Path, PathBuf};

use tamis::artifact::{Existing, Resume, inspect};
use tamis::calibrate::read_text;
use tamis::disk::{atomic, create_folder};
use tamis::error::Error;
use tamis::evaluate::{Evaluation, Protocol, Report, Windows};
use tamis::job::Job;
use tamis::load::{AddSpecial, Checkpoint, SpecialText};
use tamis::model::LanguageModel;
use tamis::recipe::{Calibration, EndBits, Recipe};
use tamis::run::{Event, Options, Sampler, Session};
use tamis::units::Alpha;
use tamis::workers::Alone;

use super::compress::{calibration, carry_out};
use super::eval::windows;
use crate::args;
use crate::opened::{Mode, Opened, Room, crew, kernels, threads};
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::{Progress, human_bytes};

const CALIBRATION: &str = include_str!("../../assets/calibration.txt");
const MEASURE: &str = include_str!("../../assets/measure.txt");
/// The same text as a file of the repository, for a command to copy.
const ASSET: &str = "crates/tamis-cli/assets/calibration.txt";
/// What a model that is named is compressed by; the result has the same name.
pub(crate) const RECIPES: [&str; 2] = ["rtn4", "int4-ortho"];
/// Small enough for a minute on two cores.
const SAMPLES: usize = 32;
const LENGTH: usize = 512;
const PROMPT: &str = "Once upon a time, in a small village by the sea,";

/// One measured line.
struct Line {
    name: String,
    bytes: u64,
    bits_per_weight: f64,
    perplexity: f64,
    divergence: Option<(f64, f64)>,
    text: String,
}

/// `tamis demo`.
pub(crate) fn run(args: &args::Demo) -> anyhow::Result<()> {
    let Some(spec) = args.model.clone() else { return nano::run(args) };
    let folder = Folder::create(args)?;
    let calibration_text = args.calibration.as_deref().map_or(Ok(CALIBRATION.into()), read_text)?;
    let measure = args.text.as_deref().map_or(Ok(MEASURE.into()), read_text)?;

    let original = Opened::load(&spec, kernels(args.shared.threads, Mode::EXACT)?, Room::windows(1, LENGTH))?;
    let context = LENGTH.min(original.engine.context());
    let windows = windows(&measure, Protocol::Gptq { context }, &original.tokenizer, None)?;
    let mut lines = measured(args, "original", &original, &[Alpha::ONE], None, &windows)?;
    for name in RECIPES {
        let output = folder.path.join(name);
        compress(args, &spec, name, &calibration_text, &output)?;
        let spec = output.display().to_string();
        let model =
            Opened::load(&spec, kernels(args.shared.threads, Mode::EXACT)?, Room::windows(3, LENGTH))?;
        let alphas: &[Alpha] = if name == "rtn4" { &[Alpha::ONE] } else { &[Alpha::ZERO, Alpha::ONE] };
        lines.extend(measured(args, name, &model, alphas, Some(&original), &windows)?);
    }
    report(args, &spec, &lines)
}

/// Where the compressed models go; it goes away with the value, unless the user named it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn create(args: &args::Demo) -> Result<Self, Error> {
        let temporary = || std::env::temp_dir().join(format!("tamis-demo-{}", std::process::id()));
        let path = args.output.clone().unwrap_or_else(temporary);
        create_folder(&path)?;
        let keep = args.output.is_some();
        stop::set_temporary((!keep).then(|| path.clone()));
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // nothing to do about a folder that will not go
            let _ = atomic::remove_any(&self.path);
        }
    }
}

fn compress(args: &args::Demo, spec: &str, recipe: &str, text: &str, output: &Path) -> anyhow::Result<()> {
    let mut recipe = Recipe::named(recipe)?;
    recipe.embedding = EndBits::Eight; // as in the original, whose embedding is Q8_0
    recipe.head = EndBits::Eight;
    let checkpoint = Checkpoint::open(spec)?;
    let length = LENGTH.min(checkpoint.config().context);
    let ops = kernels(args.shared.threads, Mode::CALIBRATION)?.ops;
    let choice = Calibration { samples: SAMPLES, length, seed: 0 };
    let job = Job {
        checkpoint: &checkpoint,
        recipe: &recipe,
        calibration: Some(calibration(&checkpoint, [Ok(text.to_owned())], choice, 0)?),
        ops: &*ops,
        threads: crew(args.shared.threads)?,
        workers: &Alone,
        output,
        policy: (Resume::Auto, Existing::Overwrite),
    };
    carry_out(&job, args.shared.quiet)?;
    stop::at_once();
    Ok(())
}

fn measured(
    args: &args::Demo,
    name: &str,
    model: &Opened,
    alphas: &[Alpha],
    baseline: Option<&Opened>,
    windows: &Windows,
) -> anyhow::Result<Vec<Line>> {
    let evaluation = Evaluation {
        model: &model.engine,
        alphas,
        baseline: baseline.map(|b| &b.engine as &dyn LanguageModel),
        windows,
        threads: threads(args.shared.threads),
    };
    let mut bar = Progress::new(&format!("measure {name}"), args.shared.quiet);
    let report: Report = evaluation.run(&mut |p| bar.update(p.done as u64, p.total as u64, p.unit))?;
    bar.finish();
    let inspection = inspect(&model.checkpoint)?;
    let line = |(index, &alpha): (usize, &Alpha)| {
        let divergence = report.divergence.get(index).map(|d| (d.mean, d.same_top1));
        let name = if alphas.len() > 1 { format!("{name}, alpha {alpha}") } else { name.to_owned() };
        Ok(Line {
            name,
            bytes: inspection.file_bytes,
            bits_per_weight: inspection.bits_per_weight,
            perplexity: report.perplexity[index].value,
            divergence,
            text: continuation(model, alpha)?,
        })
    };
    alphas.iter().enumerate().map(line).collect()
}

fn continuation(model: &Opened, alpha: Alpha) -> anyhow::Result<String> {
    let prompt = model.tokenizer.encode(PROMPT, AddSpecial::AsTrained)?;
    let options = Options { max_tokens: 24, stop: vec![], eos: model.tokenizer.eos().to_vec(), alpha };
    let mut session = Session::new(&model.engine);
    let mut sampler = Sampler::greedy();
    let stream = Box::new(model.tokenizer.stream(SpecialText::Skip));
    let mut all = String::new();
    for event in session.generate(&prompt, &options, &mut sampler, stream)? {
        let (Event::Token { text, .. } | Event::Finished { text, .. }) = event?;
        all += &text;
    }
    Ok(all.replace('\n', " "))
}

fn report(args: &args::Demo, spec: &str, lines: &[Line]) -> anyhow::Result<()> {
    if args.shared.json {
        let rows: Vec<_> = lines
            .iter()
            .map(|l| {
                serde_json::json!({
                    "name": l.name, "bytes": l.bytes, "bits_per_weight": l.bits_per_weight,
                    "perplexity": l.perplexity, "kl_mean": l.divergence.map(|d| d.0),
                    "same_top1": l.divergence.map(|d| d.1), "text": l.text,
                })
            })
            .collect();
        return print_json(&serde_json::json!({ "model": spec, "rows": rows }));
    }
    let mut table = Table::new(&["", "size", "bits/weight", "perplexity", "KL mean", "same top-1"]);
    for line in lines {
        let mut row = vec![
            line.name.clone(),
            human_bytes(line.bytes),
            format!("{:.3}", line.bits_per_weight),
            format!("{:.3}", line.perplexity),
        ];
        if let Some((mean, same)) = line.divergence {
            row.extend([format!("{mean:.4}"), format!("{:.1} %", 100.0 * same)]);
        }
        table.row(row);
    }
    let mut text = format!("\n{spec}\n\n{table}\n\"{PROMPT}\" goes on (greedy):\n");
    for line in lines {
        text += &format!("  {:<22} {}\n", line.name, line.text);
    }
    text += &format!(
        "\nnext:\n  tamis compress {spec} -o small --recipe int3-ortho --samples 32 --length 512 \
         --calibration {ASSET}\n  tamis chat small\n"
    );
    print_text(&text)
}
