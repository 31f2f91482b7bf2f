//! The `tamis` command: parse, dispatch, and turn an error into a message and an exit code.

mod args;
mod commands;
mod failure;
#[cfg(feature = "mpi")]
mod mpi;
mod opened;
mod output;
mod stop;
mod streams;
mod table;
mod team;
mod terminal;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use args::{Command, RecoverMethod, Tamis};
use failure::{guarded, report};
use tamis::error::Error;
use tamis::memory::Allocator;
use tamis::workers::Workers;
use team::Team;

/// Where there is no memory left, the command says so.
#[global_allocator]
static MEMORY: Allocator = Allocator;

fn main() -> ExitCode {
    failure::note_panics();
    stop::listen();
    let command = match parse() {
        Ok(command) => command,
        Err(answer) => return ExitCode::from(failure::answer(&answer)),
    };
    match Team::join() {
        Ok(team) => {
            let code = report(guarded(|| carry_out(command, team.workers())));
            team.leave(code)
        }
        Err(error) => ExitCode::from(report(Err(error))),
    }
}

/// The command line; `recover` also learns which flags were given, as some mean nothing to some methods.
fn parse() -> Result<Command, clap::Error> {
    let matches = Tamis::command().try_get_matches()?;
    let mut command = Tamis::from_arg_matches(&matches)?.command;
    if let (Command::Recover(args), Some((_, matches))) = (&mut command, matches.subcommand()) {
        args.given = given(matches);
    }
    Ok(command)
}

fn given(matches: &ArgMatches) -> Vec<String> {
    let typed = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(clap::Id::as_str).filter(typed).map(str::to_owned).collect()
}

fn carry_out(command: Command, workers: &dyn Workers) -> anyhow::Result<()> {
    let shares = match &command {
        Command::Compress(_) => true,
        Command::Recover(args) => args.method != RecoverMethod::Local,
        _ => false,
    };
    if workers.size() > 1 && !shares {
        return Err(Error::usage("this command does not share its work between processes")
            .next("start it without mpirun")
            .into());
    }
    if workers.is_first() {
        output::check(&command)?;
    }
    let model = command.model().map(str::to_owned);
    let done = match command {
        Command::Compress(args) => commands::compress::run(&args, workers),
        Command::Pretrain(args) => commands::pretrain::run(&args),
        Command::Recover(args) => commands::recover::run(&args, workers),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Recipe(args) => commands::recipe::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
    };
    done.map_err(|error| about(model.as_deref(), error))
}

/// Names the model where a failure that is about what a file holds names none.
fn about(model: Option<&str>, error: anyhow::Error) -> anyhow::Error {
    match (model, error.downcast::<tamis::Error>()) {
        (Some(model), Ok(error)) => error.about(model).into(),
        (None, Ok(error)) => error.into(),
        (_, Err(error)) => error,
    }
}
