//! The `tamis` command: parse, dispatch, and turn an error into a message and an exit code.

mod args;
mod commands;
#[cfg(feature = "mpi")]
mod mpi;
mod opened;
mod table;
mod team;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use args::{Command, RecoverMethod, Tamis};
use tamis::error::Error;
use tamis::memory::Allocator;
use tamis::workers::Workers;
use team::Team;

/// Where there is no memory left, the command says so.
#[global_allocator]
static MEMORY: Allocator = Allocator;

fn main() -> ExitCode {
    let command = parse();
    match Team::join() {
        Ok(team) => {
            let code = report(carry_out(command, team.workers()));
            team.leave(code)
        }
        Err(error) => ExitCode::from(report(Err(error))),
    }
}

/// The command line; `recover` also learns which flags were given, as some mean nothing to some methods.
fn parse() -> Command {
    let matches = Tamis::command().get_matches();
    let mut command = Tamis::from_arg_matches(&matches).unwrap_or_else(|e| e.exit()).command;
    if let (Command::Recover(args), Some((_, matches))) = (&mut command, matches.subcommand()) {
        args.given = given(matches);
    }
    command
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
    match command {
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
    }
}

/// Says what went wrong; gives the exit code.
fn report(result: anyhow::Result<()>) -> u8 {
    let Err(error) = result else { return 0 };
    if is_broken_pipe(&error) {
        return 0; // the reader of our output has seen enough
    }
    // a closed standard error must not turn a failure into a panic
    let _ = writeln!(std::io::stderr(), "error: {}", terminal::printable(&format!("{error:#}")));
    error.downcast_ref::<tamis::Error>().map_or(1, tamis::Error::exit_code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
