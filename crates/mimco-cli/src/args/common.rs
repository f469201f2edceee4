//! Arguments that several verbs share.

use clap::{Args, ValueEnum};

/// Help text of every argument that takes a set of images.
pub const IMAGES: &str =
    "Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, or a URL of an object store";

/// Device to compute on.
#[derive(Clone, Copy, ValueEnum)]
pub enum Device {
    /// The best available device
    Auto,
    /// The CPU
    Cpu,
}

/// Arguments of every verb that computes.
#[derive(Args)]
pub struct Common {
    /// Device to compute on
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// Logs the device and the number of threads.
    pub fn announce(&self) {
        let device = match self.device {
            Device::Auto => "the CPU (the only device so far)",
            Device::Cpu => "the CPU",
        };
        tracing::info!("computing on {device}, {} threads", mimco_engine::cpu::threads::threads());
    }
}
