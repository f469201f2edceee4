//! Every flag, defined once: help, completions and parsing come from here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Pre-trains vision transformers on your own images, without labels.
#[derive(Parser)]
#[command(name = "mimco", version, max_term_width = 100)]
pub struct Cli {
    /// Threads to compute with [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// `--threads`, else RAYON_NUM_THREADS, else all cores.
    pub fn threads(&self) -> usize {
        let environment = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|n| *n > 0);
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.map(usize::from).or_else(environment).unwrap_or_else(cores)
    }
}

#[derive(Subcommand)]
pub enum Verb {
    /// See both stages work on real images that come with the program
    Demo(Demo),
    /// Pre-train a backbone on a folder of images
    Pretrain(Pretrain),
    /// Accuracy of nearest neighbours on frozen features (DINO's protocol)
    Knn(Knn),
    /// Accuracy of a linear classifier on frozen features
    Linear(Linear),
    /// Write the feature of every image to a file
    Embed(Embed),
    /// Say what a checkpoint is and what becomes of each of its tensors
    Inspect(Inspect),
    /// Turn any checkpoint into files for timm, Hugging Face, ONNX or this program
    Convert(Convert),
    /// Shrink a set's images once into WebDataset tar shards
    Pack(Pack),
    /// Look at every image of a set: what is broken, odd or there twice
    CheckData(CheckData),
    /// Time a training step, matrix products or the data path on this machine
    Bench(Bench),
    /// Print completions for a shell
    Completions(Completions),
}

/// Where to compute.
#[derive(Clone, Copy, ValueEnum)]
pub enum Device {
    /// The best there is
    Auto,
    /// The processor
    Cpu,
}

#[derive(Args)]
pub struct Demo {
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "mimco-demo")]
    pub out: PathBuf,
    /// Start anew, removing what an earlier demo wrote there
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub common: Common,
    /// Settings over the recipe `demo`, such as seed=1 or train.epochs=5
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Args)]
pub struct Pretrain {
    /// Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL
    #[arg(long, value_name = "PATH", required_unless_present = "print_config")]
    pub data: Option<PathBuf>,
    /// Labelled images (class folders) for kNN while training; PATH then has class folders too
    #[arg(long, value_name = "PATH")]
    pub val: Option<PathBuf>,
    /// A frozen teacher's checkpoint, anybody's: the second stage alone
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// A built-in recipe or a .toml file
    #[arg(long, value_name = "R")]
    pub recipe: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    pub out: Option<PathBuf>,
    /// Weights to begin from (weights only; an unfinished run resumes by itself)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Start anew, removing what an earlier run wrote in DIR
    #[arg(long)]
    pub overwrite: bool,
    /// Print the resolved settings and stop
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub common: Common,
    /// Settings over the recipe, such as train.epochs=20 model.arch=small
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// What every verb that computes takes.
#[derive(Args)]
pub struct Common {
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// Says where it computes; logs go to standard error.
    pub fn announce(&self) {
        let device = match self.device {
            Device::Auto => "the CPU, the one device there is so far",
            Device::Cpu => "the CPU",
        };
        tracing::info!("computing on {device}, {} threads", mimco_engine::cpu::threads::threads());
    }
}

/// Which feature of an image.
#[derive(Clone, Copy, ValueEnum)]
pub enum Feature {
    /// The class token after the final norm
    Class,
    /// The mean of the patch tokens after the final norm
    Mean,
}

/// A backbone to take features from.
#[derive(Args)]
pub struct Backbone {
    /// The backbone: any checkpoint that `mimco inspect` knows
    #[arg(long, value_name = "FILE")]
    pub backbone: PathBuf,
    /// Which feature
    #[arg(long, value_enum, default_value = "class")]
    pub feature: Feature,
    #[command(flatten)]
    pub common: Common,
    /// model.heads, model.image_size, model.encoder, data.mean and data.std over what the file says
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Args)]
pub struct Knn {
    /// Labelled images that vote (class folders, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL)
    #[arg(long, value_name = "DIR")]
    pub train: PathBuf,
    /// Labelled images to classify
    #[arg(long, value_name = "DIR")]
    pub val: PathBuf,
    /// Neighbours that vote
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
    /// Labelled images to learn from (class folders, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL)
    #[arg(long, value_name = "DIR")]
    pub train: PathBuf,
    /// Labelled images to classify
    #[arg(long, value_name = "DIR")]
    pub val: PathBuf,
    /// Names the split on which the regularisation is chosen
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub backbone: Backbone,
}

#[derive(Args)]
pub struct Embed {
    /// Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Where the features go: .npy, .safetensors or .parquet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub backbone: Backbone,
}

#[derive(Args)]
pub struct Inspect {
    /// A checkpoint: safetensors or PyTorch
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print it as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// model.heads, model.encoder, data.mean and data.std over what the file says
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Whose files are written.
#[derive(Clone, Copy, ValueEnum)]
pub enum To {
    /// timm: a state dict and the hub's config.json
    Timm,
    /// Hugging Face: a folder for from_pretrained
    Hf,
    /// ONNX: from normalised pixels to tokens and features
    Onnx,
    /// This program: timm's names, with metadata
    Native,
}

#[derive(Args)]
pub struct Convert {
    /// A checkpoint: safetensors or PyTorch
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// A file (.safetensors, .onnx), or a folder
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Whose files
    #[arg(long, value_enum)]
    pub to: To,
    /// Images that the ONNX graph takes at a time; any number unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: Option<u32>,
    /// Replace files that are there
    #[arg(long)]
    pub overwrite: bool,
    /// Print what was written as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// model.heads, model.image_size, model.encoder, data.mean and data.std over what the file says
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// What becomes of images.
#[derive(Clone, Copy, ValueEnum)]
pub enum PackFormat {
    /// JPEG of what is shrunk; what is small enough stays the file that it is
    Jpeg,
    /// Binary PPM of all, which needs no decoding and many times the space
    Raw,
}

#[derive(Args)]
pub struct Pack {
    /// Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL
    #[arg(value_name = "PATH")]
    pub data: PathBuf,
    /// Folder for the shards; the same command goes on where an earlier one stopped
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Pixels of the shorter side, to which larger images are shrunk
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub size: u32,
    /// What becomes of images
    #[arg(long, value_enum, default_value = "jpeg")]
    pub format: PackFormat,
    /// Quality of a JPEG
    #[arg(long, default_value_t = 92, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// MiB with which a shard is closed
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub shard_mib: u64,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct CheckData {
    /// Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL
    #[arg(value_name = "PATH")]
    pub data: PathBuf,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchOf,
}

#[derive(Subcommand)]
pub enum BenchOf {
    /// A training step on random images of 224 px
    Step(BenchStep),
    /// Matrix products as a ViT's layers have them
    Gemm(BenchGemm),
    /// Decode and augmentation to 224 px
    Data(BenchData),
}

/// Sizes of the model.
#[derive(Clone, Copy, ValueEnum)]
pub enum Model {
    /// 192 x 12
    Tiny,
    /// 384 x 12
    Small,
    /// 768 x 12
    Base,
    /// 1024 x 24
    Large,
}

/// Steps that are timed.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Step {
    /// A teacher's inference
    Forward,
    /// Forward, backward and AdamW of one model
    Train,
    /// MimCo's step, teacher and student
    Mimco,
    /// MoCo v3's step, two views and momentum encoder
    #[value(name = "moco_v3")]
    MocoV3,
}

/// What numbers are multiplied in.
#[derive(Clone, Copy, ValueEnum)]
pub enum Precision {
    /// What the machine is fastest in
    Auto,
    /// Single precision
    F32,
    /// bf16 with sums in single precision
    Bf16,
}

#[derive(Args)]
pub struct BenchStep {
    /// Which model
    #[arg(long, value_enum, default_value = "small")]
    pub model: Model,
    /// Which step
    #[arg(long, value_enum, default_value = "train")]
    pub step: Step,
    /// What numbers are multiplied in
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Images a step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub batch: u32,
    /// Steps that are timed, after two that are not
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct BenchGemm {
    /// Rows, inner places and columns, such as 1576x384x1536; several may be given
    #[arg(value_name = "MxKxN", value_parser = shape, default_values = ["1576x384x1536", "1576x1536x384"])]
    pub shapes: Vec<[usize; 3]>,
    /// What numbers are multiplied in
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Times each product is worked out, after two that do not count
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    #[command(flatten)]
    pub common: Common,
}

/// `MxKxN`
fn shape(text: &str) -> Result<[usize; 3], String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| (1..=65_536).contains(n))).collect();
    sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| "three sizes from 1 to 65536, as in 1576x384x1536".to_string())
}

/// Which views are made.
#[derive(Clone, Copy, ValueEnum)]
pub enum Pipeline {
    /// One view for masked image modelling
    Mim,
    /// The two views of MoCo v3
    Moco,
}

#[derive(Args)]
pub struct BenchData {
    /// Images: a folder at any depth, a .txt list, tar shards, parquet, zip, CIFAR binary, IDX, a store's URL
    #[arg(value_name = "PATH")]
    pub data: PathBuf,
    /// Which views
    #[arg(long, value_enum, default_value = "mim")]
    pub pipeline: Pipeline,
    /// How long
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Print the figures as one line of JSON on standard output
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.01..=86_400.0).contains(s)).ok_or_else(|| "seconds, from 0.01 to 86400".to_string())
}

#[derive(Args)]
pub struct Completions {
    /// Whose
    pub shell: clap_complete::Shell,
}
