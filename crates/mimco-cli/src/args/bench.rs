//! Arguments of `mimco bench`.

use super::common::{Common, IMAGES};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use mimco::bench::step::Step;
use mimco::models::arch::Arch;
use mimco::settings::Precision;
use std::path::PathBuf;

#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Time a training step on random images of 224 px
    Step(BenchStep),
    /// Time matrix products with the shapes of a ViT's layers
    Gemm(BenchGemm),
    /// Time decoding and augmentation to 224 px
    Data(BenchData),
}

#[derive(Args)]
pub struct BenchStep {
    /// Model size
    #[arg(long, value_enum, default_value = "small")]
    pub model: Arch,
    /// Step to time: inference, training of one model, or a method's step
    #[arg(long, default_value = "train", value_parser = PossibleValuesParser::new(Step::names()).try_map(|name| Step::named(&name)))]
    pub step: Step,
    /// Precision of matrix products
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Images per step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub batch: u32,
    /// Number of timed steps, after two warm-up steps
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct BenchGemm {
    /// Rows, inner size and columns, such as 1576x384x1536; several may be given
    #[arg(value_name = "MxKxN", value_parser = shape, default_values = ["1576x384x1536", "1576x1536x384"])]
    pub shapes: Vec<[usize; 3]>,
    /// Precision of matrix products
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Number of timed repetitions of each product, after two warm-up repetitions
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    #[command(flatten)]
    pub common: Common,
}

/// Parses `MxKxN`.
fn shape(text: &str) -> Result<[usize; 3], String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| (1..=65_536).contains(n))).collect();
    sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| "three sizes from 1 to 65536, as in 1576x384x1536".to_string())
}

/// Views to make of each image.
#[derive(Clone, Copy, ValueEnum)]
pub enum Pipeline {
    /// One view for masked image modeling
    Mim,
    /// The two views of MoCo v3
    Moco,
}

#[derive(Args)]
pub struct BenchData {
    #[arg(value_name = "PATH", help = IMAGES)]
    pub data: PathBuf,
    /// Views to make of each image
    #[arg(long, value_enum, default_value = "mim")]
    pub pipeline: Pipeline,
    /// Seconds to run
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Parses a duration in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.01..=86_400.0).contains(s)).ok_or_else(|| "seconds, from 0.01 to 86400".to_string())
}
