//! Command-line arguments. Parsing, help, completions and manual pages all come from here.

mod bench;
mod checkpoints;
mod common;
mod data;
mod evaluation;
mod training;

pub use bench::{Bench, BenchCommand, BenchData, BenchGemm, BenchStep, Pipeline};
pub use checkpoints::{Convert, Inspect};
use clap::{Args, Parser, Subcommand};
pub use data::{CheckData, Pack, PackFormat};
pub use evaluation::{Backbone, Embed, Knn, Linear};
use std::path::PathBuf;
pub use training::{Demo, Pretrain};

/// Pre-train vision transformers on your own images, without labels.
#[derive(Parser)]
#[command(name = "mimco", version, max_term_width = 100)]
pub struct Cli {
    /// Number of compute threads [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// The verb with its arguments.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Returns `--threads`, else RAYON_NUM_THREADS, else the number of cores.
    pub fn threads(&self) -> usize {
        let environment = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|n| *n > 0);
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.map(usize::from).or_else(environment).unwrap_or_else(cores)
    }
}

#[derive(Subcommand)]
pub enum Verb {
    /// Train both stages on images that come with the program
    Demo(Demo),
    /// Pre-train a backbone on your images
    Pretrain(Pretrain),
    /// Measure nearest-neighbor accuracy on frozen features (DINO's protocol)
    Knn(Knn),
    /// Measure the accuracy of a linear classifier on frozen features
    Linear(Linear),
    /// Write the feature of every image to a file
    Embed(Embed),
    /// Show what a checkpoint contains, tensor by tensor
    Inspect(Inspect),
    /// Convert a checkpoint for timm, Hugging Face, ONNX or this program
    Convert(Convert),
    /// Shrink the images of a set and write them as WebDataset tar shards
    Pack(Pack),
    /// Find broken, odd and duplicate images of a set
    CheckData(CheckData),
    /// Measure the speed of a training step, matrix products or data loading
    Bench(Bench),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write manual pages for the program and every verb
    Man(Man),
}

#[derive(Args)]
pub struct Completions {
    /// Shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args)]
pub struct Man {
    /// Folder for the pages; created if it is missing
    #[arg(value_name = "DIR")]
    pub out: PathBuf,
}
