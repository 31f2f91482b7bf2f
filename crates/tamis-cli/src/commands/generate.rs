//! `tamis generate`: continue a prompt, streaming.

use serde_json::json;
use tamis::error::Error;
use tamis::load::chat::{GenerationPrompt, Message, Role};
use tamis::load::{AddSpecial, SpecialText};
use tamis::ops::Precision;
use tamis::run::{Event, Finish, Options, Sampler, SamplerSettings, Session, Timing};
use tamis::units::Alpha;

use crate::args;
use crate::opened::{Opened, kernels};
use crate::streams::{log, print_json, print_text};
use crate::terminal::{human_bytes, peak_memory};

/// `tamis generate`.
pub(crate) fn run(args: &args::Generate) -> anyhow::Result<()> {
    let mut sampler = sampler(&args.sampling)?;
    let kernels = kernels(args.shared.threads, args.running.or(Precision::Int8))?;
    let model = Opened::load(&args.model, kernels)?.adapted(&args.adapted)?;
    let prompt = prompt(args, &model)?;
    let options = options(&args.sampling, &model)?;
    let mut session = Session::new(&model.engine);
    let stream = Box::new(model.tokenizer.stream(SpecialText::Skip));
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut end = None;
    for event in session.generate(&prompt, &options, &mut sampler, stream)? {
        let piece = match event.map_err(|e| e.or_file(&args.model))? {
            Event::Token { id, text } => {
                tokens.push(id);
                text
            }
            Event::Finished { text, reason, timing } => {
                end = Some((reason, timing));
                text
            }
        };
        if !args.shared.json {
            print_text(&piece)?;
        }
        text += &piece;
    }
    let (reason, timing) = end.ok_or_else(|| Error::defect("the generation ended without a reason"))?;
    if args.shared.json {
        return print_json(&json!({
            "prompt_tokens": prompt,
            "tokens": tokens,
            "text": text,
            "finish_reason": reason_name(&reason),
            "prefill_tokens_per_second": timing.prefill_rate(),
            "decode_tokens_per_second": timing.decode_rate(),
            "time_to_first_token_seconds": timing.first_token.as_secs_f64(),
            "peak_memory_bytes": peak_memory(),
        }));
    }
    print_text("\n")?;
    if !args.shared.quiet {
        log(&speed(&timing, &reason));
    }
    Ok(())
}

fn prompt(args: &args::Generate, model: &Opened) -> anyhow::Result<Vec<u32>> {
    if !args.chat {
        return Ok(model.tokenizer.encode(&args.prompt, AddSpecial::AsTrained)?);
    }
    let template = model.checkpoint.chat_template()?.ok_or_else(|| no_template(model))?;
    let message = Message { role: Role::User, content: args.prompt.clone() };
    let text = template.render(&[message], GenerationPrompt::Open).map_err(|e| e.or_file(&args.model))?;
    // the template writes special tokens itself, BOS among them
    Ok(model.tokenizer.encode(&text, AddSpecial::Nothing)?)
}

pub(crate) fn no_template(model: &Opened) -> Error {
    Error::missing("this model has no chat template")
        .file(model.checkpoint.path())
        .next("use tamis generate without --chat")
}

/// Checked sampling settings.
pub(crate) fn sampler(args: &args::Sampling) -> Result<Sampler, Error> {
    let drawn = SamplerSettings {
        temperature: args.temperature,
        top_k: args.top_k.unwrap_or(0),
        top_p: args.top_p,
        min_p: args.min_p.unwrap_or(0.0),
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    let greedy =
        SamplerSettings { repetition_penalty: args.repetition_penalty, ..SamplerSettings::default() };
    Sampler::new(if args.greedy { greedy } else { drawn })
}

/// What is wanted besides the prompt.
pub(crate) fn options(args: &args::Sampling, model: &Opened) -> Result<Options, Error> {
    Ok(Options {
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        eos: model.tokenizer.eos().to_vec(),
        alpha: Alpha::new(args.alpha)?,
    })
}

fn reason_name(reason: &Finish) -> &'static str {
    match reason {
        Finish::EndOfSequence => "eos",
        Finish::Stop(_) => "stop",
        Finish::Length => "length",
    }
}

/// One line about an answer.
pub(crate) fn speed(timing: &Timing, reason: &Finish) -> String {
    format!(
        "[{} prompt tokens at {:.1}/s, first token after {:.2} s, {} tokens at {:.1}/s, ended by {}, peak memory {}]",
        timing.prompt_tokens,
        timing.prefill_rate(),
        timing.first_token.as_secs_f64(),
        timing.new_tokens,
        timing.decode_rate(),
        reason_name(reason),
        peak_memory().map_or("unknown".into(), human_bytes),
    )
}
