//! `mimco completions SHELL`

use crate::Done;
use crate::args::{Cli, Completions};
use clap::CommandFactory;

pub fn run(args: Completions) -> anyhow::Result<Done> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mimco", &mut script);
    crate::output::line(&String::from_utf8_lossy(&script))?;
    Ok(Done::Complete)
}
