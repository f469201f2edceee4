//! Arguments of `mimco inspect` and `mimco convert`.

use clap::Args;
use mimco::interop::convert::ExportTarget;
use std::path::PathBuf;

#[derive(Args)]
pub struct Inspect {
    /// Checkpoint: safetensors or PyTorch
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the result as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// model.heads, model.image_size, model.encoder, data.mean and data.std override the file
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Args)]
pub struct Convert {
    /// Checkpoint: safetensors or PyTorch
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Output file (.safetensors, .onnx), or folder
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Target format
    #[arg(long, value_enum)]
    pub to: ExportTarget,
    /// Fixed batch size of the ONNX graph; without it the graph takes any batch size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: Option<u32>,
    /// Replace existing files
    #[arg(long)]
    pub overwrite: bool,
    /// Print what was written as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// model.heads, model.image_size, model.encoder, data.mean and data.std override the file
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}
