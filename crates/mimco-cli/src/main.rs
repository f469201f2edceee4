//! The command `mimco`: arguments -> resolved settings -> one call of the library.

mod args;
mod commands;
mod output;
mod signals;
mod status;

use args::{Cli, Verb};
use clap::Parser;
use status::Status;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A guarded decoder's panic on a broken image is reported as that image's error.
        if !mimco_data::is_guarded() {
            eprintln!("error: internal error: {panic}; please report it");
        }
    }));
    let cli = Cli::parse();
    output::install_log();
    mimco_engine::cpu::threads::set_threads(cli.threads());
    let result = match cli.verb {
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
        Verb::Man(args) => commands::man::run(args),
    };
    match result {
        Ok(Status::Complete) => ExitCode::SUCCESS,
        Ok(Status::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            let misuse = error.downcast_ref::<mimco::Error>().is_some_and(mimco::Error::is_misuse);
            ExitCode::from(if misuse { 2 } else { 1 })
        }
    }
}
