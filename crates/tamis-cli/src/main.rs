//! The `tamis` command: parse, dispatch, and turn an error into a message and an exit code.

mod args;
mod commands;
mod opened;
mod table;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Command, Tamis};

fn main() -> ExitCode {
    let result = match Tamis::parse().command {
        Command::Compress(args) => commands::compress::run(&args),
        Command::Pretrain(args) => commands::pretrain::run(&args),
        Command::Recover(args) => commands::recover::run(&args),
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
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS; // the reader of our output has seen enough
    }
    // a closed standard error must not turn a failure into a panic
    let _ = writeln!(std::io::stderr(), "error: {}", terminal::printable(&format!("{error:#}")));
    ExitCode::from(error.downcast_ref::<tamis::Error>().map_or(1, tamis::Error::exit_code))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
