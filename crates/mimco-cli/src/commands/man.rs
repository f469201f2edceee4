//! `mimco man DIR`

use crate::args::{Cli, Man};
use crate::{output, status::Status};
use clap::CommandFactory;

/// Writes one manual page for the program and one for each verb.
pub fn run(args: Man) -> anyhow::Result<Status> {
    let failed = |e: std::io::Error| {
        mimco::Error::file(&args.out, format!("manual pages cannot be written: {e}; give a folder that can be written"))
    };
    std::fs::create_dir_all(&args.out).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.out).map_err(failed)?;
    output::line(&format!("manual pages in {}", args.out.display()))?;
    Ok(Status::Complete)
}
