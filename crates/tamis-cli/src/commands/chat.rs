//! `tamis chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use tamis::load::chat::{GenerationPrompt, Message, Role};
use tamis::load::{AddSpecial, SpecialText};
use tamis::ops::Precision;
use tamis::run::{Chat, Event};

use super::generate::{no_template, options, sampler, speed};
use super::print_text;
use crate::args;
use crate::opened::{Opened, Room, kernels};

/// `tamis chat`.
pub(crate) fn run(args: &args::Chat) -> anyhow::Result<()> {
    let mut sampler = sampler(&args.sampling)?;
    let kernels = kernels(args.shared.threads, args.running.or(Precision::Int8))?;
    let model =
        Opened::load(&args.model, kernels, Room::answer(args.sampling.max_tokens))?.adapted(&args.adapted)?;
    let template = model.checkpoint.chat_template()?.ok_or_else(|| no_template(&model))?;
    let options = options(&args.sampling, &model)?;
    let render = |messages: &[Message]| {
        let text = template.render(messages, GenerationPrompt::Open)?;
        model.tokenizer.encode(&text, AddSpecial::Nothing)
    };
    let mut chat = Chat::new(&model.engine, Box::new(render));
    if let Some(system) = &args.system {
        chat.push(Message { role: Role::System, content: system.clone() });
    }
    let asks = std::io::stdin().is_terminal();
    loop {
        if asks {
            print_text("> ")?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => {
                chat.restart();
                continue;
            }
            _ => {}
        }
        let stream = Box::new(model.tokenizer.stream(SpecialText::Skip));
        let mut failed = None;
        let reply = chat.say(line.trim_end(), &options, &mut sampler, stream, &mut |event| {
            let (Event::Token { text, .. } | Event::Finished { text, .. }) = event;
            match print_text(text) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        print_text("\n")?;
        if let (false, Some(reason)) = (args.shared.quiet, &reply.finish) {
            writeln!(std::io::stderr(), "{}", speed(&reply.timing, reason))?;
        }
    }
}
