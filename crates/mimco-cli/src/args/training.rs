//! Arguments of `mimco demo` and `mimco pretrain`.

use super::common::{Common, IMAGES};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Demo {
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "mimco-demo")]
    pub out: PathBuf,
    /// Start again from the beginning; removes what an earlier demo wrote in DIR
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub common: Common,
    /// Settings that override the recipe `demo`, such as seed=1 or train.epochs=5
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Args)]
pub struct Pretrain {
    #[arg(long, value_name = "PATH", required_unless_present = "print_config", help = IMAGES)]
    pub data: Option<PathBuf>,
    /// Labeled images (class folders) for kNN during training; --data must then have class folders too
    #[arg(long, value_name = "PATH")]
    pub val: Option<PathBuf>,
    /// Checkpoint of a frozen teacher, of any supported project; trains only the second stage
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// Built-in recipe or .toml file
    #[arg(long, value_name = "R")]
    pub recipe: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    pub out: Option<PathBuf>,
    /// Initial weights of the last stage (weights only; an unfinished run resumes without this)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Start again from the beginning; removes what an earlier run wrote in DIR
    #[arg(long)]
    pub overwrite: bool,
    /// Print the resolved settings and stop
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub common: Common,
    /// Settings that override the recipe, such as train.epochs=20 model.arch=small
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}
