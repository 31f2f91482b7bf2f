//! `tamis eval`: perplexity, and divergence from a baseline, in one pass.

use std::num::NonZeroUsize;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tamis::error::Error;
use tamis::evaluate::scorecard::Facts;
use tamis::evaluate::{Evaluation, Protocol, Report, Scorecard, Specials, Windows};
use tamis::load::{AddSpecial, Tokenizer};
use tamis::model::LanguageModel;
use tamis::ops::Precision;
use tamis::units::Alpha;

use crate::args;
use crate::opened::{Mode, Opened, kernels, threads};
use crate::streams::{print_json, print_text};
use crate::table::Table;
use crate::terminal::Progress;

/// `tamis eval`.
pub(crate) fn run(args: &args::Eval) -> anyhow::Result<()> {
    let started = Instant::now();
    let alphas = args.alpha.iter().map(|a| Alpha::new(*a)).collect::<Result<Vec<_>, _>>()?;
    let text = read_text(&args.perplexity)?;
    let mode = args.running.or(Precision::F32);
    let ops = kernels(args.shared.threads, mode)?;
    let model = Opened::load(&args.model, ops)?.adapted(&args.adapted)?;
    let exact = kernels(args.shared.threads, Mode::EXACT)?;
    let baseline = args.baseline.as_ref().map(|spec| Opened::load(spec, exact)).transpose()?;
    if let Some(baseline) = &baseline {
        check_vocabularies(&model.tokenizer, &baseline.tokenizer)?;
    }
    let protocol = protocol(args, model.engine.context());
    let windows = windows(&text, protocol, &model.tokenizer, args.windows);
    let windows = windows.map_err(|e| e.or_file(&args.perplexity))?;
    let evaluation = Evaluation {
        model: &model.engine,
        alphas: &alphas,
        baseline: baseline.as_ref().map(|b| &b.engine as &dyn LanguageModel),
        windows: &windows,
        threads: threads(args.shared.threads),
    };
    let mut bar = Progress::new("eval", args.shared.quiet);
    let report = evaluation.run(&mut |p| bar.update(p.done as u64, p.total as u64, p.unit));
    let report = report.map_err(|e| e.or_file(&args.model))?;
    bar.finish();
    if args.shared.json {
        let mut card = Scorecard::new(facts(args, &model, started)?);
        card.report(&report);
        card.extra("precision", mode.precision.to_string().into());
        card.extra("cache", mode.cache.to_string().into());
        if let Some(folder) = &args.adapted.adapter {
            card.extra("adapter", folder.display().to_string().into());
        }
        return print_json(&card.to_json());
    }
    let Mode { precision, cache } = mode;
    let adapter = args.adapted.adapter.as_ref().map(|folder| format!(", adapter {}", folder.display()));
    let adapter = adapter.unwrap_or_default();
    print_text(&format!("precision {precision}, cache {cache}{adapter}; {}", table(&report)))
}

/// The text of a file; anything but UTF-8 is refused.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::reading(path, &e).next("give a text file"))?;
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to() as u64;
        Error::bad_data("not UTF-8 text").file(path).offset(offset).next("convert the file to UTF-8")
    })
}

/// Cuts `text` by `protocol` with this tokenizer.
pub(crate) fn windows(
    text: &str,
    protocol: Protocol,
    tokenizer: &Tokenizer,
    limit: Option<usize>,
) -> Result<Windows, Error> {
    let limit = limit
        .map(|n| {
            NonZeroUsize::new(n)
                .ok_or_else(|| Error::usage("--windows must be at least 1").next("try --windows 10"))
        })
        .transpose()?;
    let encode = |text: &str| tokenizer.encode(text, AddSpecial::Nothing);
    protocol.windows(text, &encode, Specials::from(tokenizer), limit)
}

fn protocol(args: &args::Eval, model_context: usize) -> Protocol {
    let context = |preferred: usize| args.context.unwrap_or(preferred.min(model_context));
    match args.protocol {
        args::Protocol::Gptq => Protocol::Gptq { context: context(2048) },
        args::Protocol::Hf => Protocol::HuggingFace { context: context(2048), stride: args.stride },
        args::Protocol::Llamacpp => Protocol::LlamaCpp { context: context(512) },
        args::Protocol::LmEval => Protocol::LmEval { context: context(2048) },
    }
}

/// Divergence compares distributions over the same tokens, so ids must mean the same.
fn check_vocabularies(model: &Tokenizer, baseline: &Tokenizer) -> Result<(), Error> {
    if model.vocab_size() == baseline.vocab_size() {
        return Ok(());
    }
    let sizes = (model.vocab_size(), baseline.vocab_size());
    Err(Error::usage(format!("the model has {} tokens and the baseline {}", sizes.0, sizes.1))
        .next("compare a model with the one it was made from"))
}

fn facts(args: &args::Eval, model: &Opened, started: Instant) -> anyhow::Result<Facts> {
    let seconds = started.elapsed().as_secs_f64();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let token = |id: Option<u32>| id.and_then(|id| model.tokenizer.token(id));
    Ok(Facts {
        model: args.model.clone(),
        parameters: Some(model.checkpoint.parameters()),
        dtype: None,
        sha256: Some(model.checkpoint.fingerprint()?),
        max_length: model.engine.context(),
        baseline: args.baseline.clone(),
        text: Some(args.perplexity.display().to_string()),
        limit: args.windows,
        seed: None,
        date: now - seconds,
        seconds,
        bos_token: token(model.tokenizer.bos()),
        eos_token: token(model.tokenizer.eos().first().copied()),
    })
}

fn table(report: &Report) -> String {
    let mut table =
        Table::new(&["alpha", "perplexity", "+-", "KL mean", "median", "p99", "max", "same top-1"]);
    for (index, p) in report.perplexity.iter().enumerate() {
        let mut row = vec![p.alpha.to_string(), format!("{:.4}", p.value), format!("{:.4}", p.stderr)];
        if let Some(d) = report.divergence.get(index) {
            row.extend([d.mean, d.median, d.p99, d.max].map(|v| format!("{v:.5}")));
            row.push(format!("{:.2} %", 100.0 * d.same_top1));
        }
        table.row(row);
    }
    let Some(first) = report.perplexity.first() else { return String::new() };
    let windows = match first.windows_available {
        all if all == first.windows => format!("{all}"),
        all => format!("the first {} of {all}", first.windows),
    };
    let mut text = format!(
        "protocol {}, context {}, {windows} windows, {} tokens scored, BOS: {}\n",
        first.protocol, first.context, first.tokens, first.bos
    );
    if let Some(baseline) = &first.baseline {
        text += &format!("baseline perplexity {:.4} +- {:.4}\n", baseline.value, baseline.stderr);
    }
    if let Some(d) = &first.document {
        text += &format!(
            "word perplexity {:.4}, byte perplexity {:.4}, bits per byte {:.4} (alpha {})\n",
            d.word_perplexity, d.byte_perplexity, d.bits_per_byte, first.alpha
        );
    }
    text + &table.to_string()
}
