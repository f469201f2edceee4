//! Arguments of `mimco pack` and `mimco check-data`.

use super::common::IMAGES;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Format of the packed images.
#[derive(Clone, Copy, ValueEnum)]
pub enum PackFormat {
    /// Shrunk images become JPEGs; images that are small enough are copied unchanged
    Jpeg,
    /// All images become binary PPM, which needs no decoding and many times the space
    Raw,
}

#[derive(Args)]
pub struct Pack {
    #[arg(value_name = "PATH", help = IMAGES)]
    pub data: PathBuf,
    /// Folder for the shards; after an interruption, the same command continues there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Larger images are shrunk to this many pixels on the shorter side
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub size: u32,
    /// Format of the packed images
    #[arg(long, value_enum, default_value = "jpeg")]
    pub format: PackFormat,
    /// JPEG quality
    #[arg(long, default_value_t = 92, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Size in MiB at which a shard is closed
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub shard_mib: u64,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct CheckData {
    #[arg(value_name = "PATH", help = IMAGES)]
    pub data: PathBuf,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}
