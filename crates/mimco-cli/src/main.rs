//! The command `mimco`: arguments -> resolved settings -> one call of the library.

mod args;
mod commands;
mod output;
mod signals;

use args::{Cli, Verb};
use clap::Parser;
use std::process::ExitCode;

/// How a command ended, when nothing went wrong.
pub enum Done {
    /// All of it was done.
    Complete,
    /// A signal came, what was done is kept.
    Interrupted,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A decoder's, on an image that is broken, is told as that image's error.
        if !mimco_data::is_guarded() {
            eprintln!("error: mimco failed within: {panic}; please report this");
        }
    }));
    let cli = Cli::parse();
    output::install_log();
    mimco_engine::cpu::threads::set_threads(cli.threads());
    let done = match cli.verb {
        Verb::Demo(args) => commands::demo::run(args),
        Verb::Pretrain(args) => commands::pretrain::run(args),
        Verb::Knn(args) => commands::evaluate::knn(args),
        Verb::Linear(args) => commands::evaluate::linear(args),
        Verb::Embed(args) => commands::evaluate::embed(args),
        Verb::Inspect(args) => commands::convert::inspect(args),
        Verb::Convert(args) => commands::convert::convert(args),
        Verb::Pack(args) => commands::pack::run(args),
        Verb::CheckData(args) => commands::check_data::run(args),
        Verb::Bench(args) => commands::bench::run(args),
        Verb::Completions(args) => commands::completions::run(args),
    };
    match done {
        Ok(Done::Complete) => ExitCode::SUCCESS,
        Ok(Done::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            let misuse = error.downcast_ref::<mimco::Error>().is_some_and(mimco::Error::is_misuse);
            ExitCode::from(if misuse { 2 } else { 1 })
        }
    }
}
