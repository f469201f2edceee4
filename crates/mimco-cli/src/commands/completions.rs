//! `mimco completions SHELL`

use crate::args::{Cli, Completions};
use crate::{output, status::Status};
use clap::CommandFactory;

/// Prints a completion script.
pub fn run(args: Completions) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mimco", &mut script);
    output::line(&String::from_utf8_lossy(&script))?;
    Ok(Status::Complete)
}
