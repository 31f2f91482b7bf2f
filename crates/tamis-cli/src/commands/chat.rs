//! `tamis chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;

use tamis::error::Error;
use tamis::load::chat::{GenerationPrompt, Message, Role};
use tamis::load::{AddSpecial, SpecialText};
use tamis::ops::Precision;
use tamis::run::{Chat, Event};

use super::generate::{no_template, options, sampler, speed};
use crate::args;
use crate::opened::{Opened, kernels};
use crate::stop;
use crate::streams::{log, print_text};

/// `tamis chat`.
pub(crate) fn run(args: &args::Chat) -> anyhow::Result<()> {
    let mut sampler = sampler(&args.sampling)?;
    let kernels = kernels(args.shared.threads, args.running.or(Precision::Int8))?;
    let model = Opened::load(&args.model, kernels)?.adapted(&args.adapted)?;
    let template = model.checkpoint.chat_template()?.ok_or_else(|| no_template(&model))?;
    let options = options(&args.sampling, &model)?;
    let render = |messages: &[Message]| {
        let text = template.render(messages, GenerationPrompt::Open).map_err(|e| e.or_file(&args.model))?;
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
        let read = std::io::stdin().lock().read_line(&mut line);
        if read.map_err(|e| Error::reading("standard input", &e).next("say it in UTF-8"))? == 0 {
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
        stop::save_first();
        let reply = chat.say(line.trim_end(), &options, &mut sampler, stream, &mut |event| {
            let (Event::Token { text, .. } | Event::Finished { text, .. }) = event;
            match print_text(text) {
                Ok(()) => stop::asked(),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        let reply = reply.map_err(|e| e.or_file(&args.model))?;
        if let Some(error) = failed {
            return Err(error);
        }
        print_text("\n")?;
        if let (false, Some(reason)) = (args.shared.quiet, &reply.finish) {
            log(&speed(&reply.timing, reason));
        }
        if asks {
            stop::followed(); // the answer was stopped, not the conversation
        }
        stop::at_once();
    }
}
