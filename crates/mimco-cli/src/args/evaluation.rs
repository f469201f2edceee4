//! Arguments of `mimco knn`, `mimco linear` and `mimco embed`.

use super::common::{Common, IMAGES};
use clap::Args;
use mimco::models::backbone::FeatureKind;
use std::path::PathBuf;

/// A backbone that computes features.
#[derive(Args)]
pub struct Backbone {
    /// Backbone: any checkpoint that `mimco inspect` reads
    #[arg(long, value_name = "FILE")]
    pub backbone: PathBuf,
    /// Feature of an image
    #[arg(long, value_enum, default_value = "class")]
    pub feature: FeatureKind,
    #[command(flatten)]
    pub common: Common,
    /// model.heads, model.image_size, model.encoder, data.mean and data.std override the file
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Args)]
pub struct Knn {
    /// Labeled images that vote (class folders, tar shards, parquet, zip, CIFAR binary, IDX, or a URL of an object store)
    #[arg(long, value_name = "DIR")]
    pub train: PathBuf,
    /// Labeled images to classify
    #[arg(long, value_name = "DIR")]
    pub val: PathBuf,
    /// Number of neighbors that vote
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub k: u32,
    /// Temperature of the votes
    #[arg(long, default_value_t = 0.07)]
    pub temperature: f64,
    #[command(flatten)]
    pub backbone: Backbone,
}

#[derive(Args)]
pub struct Linear {
    /// Labeled images to fit (class folders, tar shards, parquet, zip, CIFAR binary, IDX, or a URL of an object store)
    #[arg(long, value_name = "DIR")]
    pub train: PathBuf,
    /// Labeled images to classify
    #[arg(long, value_name = "DIR")]
    pub val: PathBuf,
    /// Seed of the split that is used to choose the regularization
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub backbone: Backbone,
}

#[derive(Args)]
pub struct Embed {
    #[arg(long, value_name = "PATH", help = IMAGES)]
    pub data: PathBuf,
    /// Output file: .npy, .safetensors or .parquet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub backbone: Backbone,
}
