//! Pre-training: from a request to a finished run folder.

pub mod checkpoint;
mod console;
pub mod metrics;
mod run_folder;
pub mod schedule;
pub mod train;
pub mod watch;

use crate::Error;
use crate::evaluation::features::FeatureKind;
use crate::interop::backbone::{self, BackboneOverrides, Info};
use crate::methods::Method;
use crate::methods::mask::MaskGenerator;
use crate::methods::mimco::Mimco;
use crate::methods::moco_v3::MocoV3;
use crate::settings::{Config, Plan, Pooling};
use checkpoint::Progress;
use console::Console;
use mimco_data::Dataset;
use mimco_data::loader::{Loader, LoaderOptions};
use mimco_engine::optim::{Optimizer, Rule};
use run_folder::Found;
pub use run_folder::RunFolder;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use train::{Ended, Training};
use watch::Watch;

/// What `pretrain` is asked for.
pub struct PretrainRequest {
    /// A heap of images, or a folder with `train/` and `val/` class folders.
    pub data: PathBuf,
    /// Labelled images for kNN while training; `data` is then taken as labelled too.
    pub val: Option<PathBuf>,
    /// A frozen teacher: stage 2 alone.
    pub teacher: Option<PathBuf>,
    /// Weights to begin from (weights only, unlike a resume).
    pub init: Option<PathBuf>,
    /// The run folder.
    pub out: PathBuf,
    /// Start anew, removing what an earlier run wrote there.
    pub overwrite: bool,
    /// The stages' settings.
    pub plan: Plan,
    /// Set by a signal.
    pub interrupted: Arc<AtomicBool>,
}

/// Images to train on, and to look at.
pub struct Images {
    /// Training images.
    pub train: Dataset,
    /// Labelled validation images.
    pub val: Option<Dataset>,
}

/// How a request ended.
pub enum Outcome {
    /// All stages done; the last stage's summary.
    Finished(Summary),
    /// Everything had been done before.
    AlreadyFinished(Summary),
    /// A signal came; checkpoints are written.
    Interrupted,
}

/// A finished stage in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The method.
    pub method: String,
    /// The exported backbone.
    pub backbone: PathBuf,
    /// Epochs of the stage.
    pub epochs: usize,
    /// Updates of the stage.
    pub steps: u64,
    /// Seconds of the stage, over all its sittings.
    pub seconds: f64,
    /// Best kNN accuracy while training, percent.
    pub best_knn_top1: Option<f64>,
}

/// Runs the stages of a request: a teacher where the plan has one, then the main stage.
pub fn pretrain(request: &PretrainRequest) -> Result<Outcome, Error> {
    let images = open_images(&request.data, request.val.as_deref())?;
    let mut anew = false;
    let mut steps_before = 0;
    let mut teacher = request.teacher.clone();
    if let Some(config) = &request.plan.teacher {
        let stage = Stage {
            config,
            out: request.out.join("teacher"),
            teacher: None,
            init: None,
            overwrite: request.overwrite,
            steps_before,
            interrupted: &request.interrupted,
        };
        match run_stage(&stage, &images)? {
            Outcome::Interrupted => return Ok(Outcome::Interrupted),
            Outcome::Finished(summary) => (anew, steps_before, teacher) = (true, summary.steps, Some(summary.backbone)),
            Outcome::AlreadyFinished(summary) => (steps_before, teacher) = (summary.steps, Some(summary.backbone)),
        }
    }
    let stage = Stage {
        config: &request.plan.main,
        out: request.out.clone(),
        teacher,
        init: request.init.clone(),
        overwrite: request.overwrite && !(anew || request.plan.teacher.is_some()),
        steps_before,
        interrupted: &request.interrupted,
    };
    run_stage(&stage, &images)
}

/// Finds the images of a request; labels are used only where they were asked for.
pub fn open_images(data: &Path, val: Option<&Path>) -> Result<Images, Error> {
    let images = match val {
        Some(val) => Images { train: Dataset::labelled(data)?, val: Some(Dataset::labelled(val)?) },
        None => match Dataset::splits(data)? {
            Some((train, val)) => Images { train, val: Some(val) },
            None => Images { train: Dataset::heap(data)?, val: None },
        },
    };
    if images.train.len() < 2 {
        return Err(Error::Training(format!("{} holds one image; two are the least to train on, thousands are better", data.display())));
    }
    Ok(images)
}

/// One stage to run.
pub struct Stage<'a> {
    /// Its settings.
    pub config: &'a Config,
    /// Its run folder.
    pub out: PathBuf,
    /// The frozen teacher, for MimCo.
    pub teacher: Option<PathBuf>,
    /// Weights to begin from.
    pub init: Option<PathBuf>,
    /// Start anew.
    pub overwrite: bool,
    /// Updates of the stage before.
    pub steps_before: u64,
    /// Set by a signal.
    pub interrupted: &'a AtomicBool,
}

/// Runs one stage to its end, or takes it up where it stopped.
pub fn run_stage(stage: &Stage<'_>, images: &Images) -> Result<Outcome, Error> {
    let mut config = stage.config.clone();
    let said_batch = fit_batch(&mut config, images.train.len());
    let teacher = match (&config.mimco, &stage.teacher) {
        (Some(_), Some(path)) => Some(backbone::load(path, &BackboneOverrides::default())?.0),
        (Some(_), None) => return Err(Error::Setting("mimco needs a teacher; give --teacher FILE, or leave --recipe out to train one first".into())),
        (None, _) => None,
    };
    let identity = identity(&config, images, teacher.as_ref().map(|t| t.parameters.flat()));
    let mut method: Box<dyn Method> = match (&config.moco_v3, &config.mimco, teacher) {
        (_, Some(settings), Some(teacher)) => {
            let mask = MaskGenerator::new(config.vit().grid(), config.mask_unit()?, config.mask_ratio());
            Box::new(Mimco::new(&config, settings, mask, teacher, images.train.len())?)
        }
        (Some(settings), ..) => Box::new(MocoV3::new(&config, settings)),
        _ => return Err(Error::Setting(format!("method {:?} has no settings of its own", config.method))),
    };
    let (folder, found) = RunFolder::open(&stage.out, &config, stage.overwrite)?;
    if found == Found::Run && folder.last().exists() {
        let progress = checkpoint::progress(&folder.last())?;
        if progress.finished && progress.identity == identity {
            return Ok(Outcome::AlreadyFinished(summary(&config, &folder, &progress)));
        }
    }
    let console = Console::open(&folder.path)?;
    if found == Found::Nothing {
        if let Some(path) = &stage.init {
            initialise_from(path, method.as_mut())?;
        }
        crate::files::write_atomically(&folder.config(), config.to_toml().as_bytes())?;
        crate::files::write_atomically(&folder.path.join("environment.json"), environment().as_bytes())?;
    }
    if let Some(said) = said_batch {
        console.say(&said);
    }
    apply_decay(&config, method.as_mut());
    let rule = match config.optim.name {
        crate::settings::OptimizerName::Adamw => Rule::AdamW { beta1: config.optim.betas[0], beta2: config.optim.betas[1], eps: config.optim.eps },
        crate::settings::OptimizerName::Sgd => Rule::Sgd { momentum: config.optim.betas[0] },
    };
    let optimizer = Optimizer::new(rule, config.optim.weight_decay, method.parameters());
    let loader = Loader::new(
        images.train.clone(),
        method.pipeline(),
        LoaderOptions {
            batch_size: config.train.batch_size,
            seed: config.seed,
            workers: config.workers(),
            queue: 4,
            image_size: config.model.image_size as u32,
            max_broken: config.data.max_broken,
        },
    );
    let watch = Watch::new(&config, &images.train, images.val.as_ref(), feature_kind(&config));
    let training = Training {
        config: &config,
        folder: &folder,
        loader: &loader,
        method: method.as_mut(),
        optimizer,
        watch: &watch,
        console: &console,
        interrupted: stage.interrupted,
        identity,
        steps_before: stage.steps_before,
    };
    console.say(&opening(&config, &training, images));
    match training.run()? {
        Ended::Interrupted => Ok(Outcome::Interrupted),
        Ended::Complete(progress, optimizer) => finish(&config, &folder, method.as_ref(), &optimizer, progress, &console),
    }
}

/// Writes what a finished stage leaves: the export, the report, and a checkpoint that says so.
fn finish(config: &Config, folder: &RunFolder, method: &dyn Method, optimizer: &Optimizer, mut progress: Progress, console: &Console) -> Result<Outcome, Error> {
    let (vit, parameters) = method.backbone();
    let info = Info {
        model: vit.config.clone(),
        architecture: vit.config.name(),
        method: config.method.to_string(),
        seed: config.seed,
        steps: progress.optimizer_steps,
        pooling: match feature_kind(config) {
            FeatureKind::Class => "class".into(),
            FeatureKind::Mean => "mean".into(),
        },
    };
    backbone::save(&folder.backbone(), vit, parameters, &info)?;
    progress.finished = true;
    let summary = summary(config, folder, &progress);
    crate::report::write_run_report(folder, config, &summary)?;
    checkpoint::save(&folder.last(), method, optimizer, &progress)?;
    console.say(&format!("finished: {}", folder.backbone().display()));
    Ok(Outcome::Finished(summary))
}

/// A set smaller than a batch trains with the batch reduced; says so.
fn fit_batch(config: &mut Config, images: usize) -> Option<String> {
    let asked = config.train.batch_size;
    if images >= asked * config.train.accumulate {
        return None;
    }
    config.train.accumulate = config.train.accumulate.min(images / 2).max(1);
    config.train.batch_size = asked.min(images / config.train.accumulate);
    Some(format!(
        "{images} images are fewer than a batch of {asked}: training with batches of {} (few negatives; more images serve better)",
        config.train.batch_size
    ))
}

fn feature_kind(config: &Config) -> FeatureKind {
    match &config.mimco {
        Some(settings) if settings.pooling == Pooling::Mean => FeatureKind::Mean,
        _ => FeatureKind::Class,
    }
}

/// The opening line: what trains on what, with the learning rate as scaled.
fn opening(config: &Config, training: &Training<'_>, images: &Images) -> String {
    let parameters = training.method.parameters().trainable_elements();
    format!(
        "{}: {} with {:.1} M parameters to train, {} images{}, {} epochs of {} steps, batch {}{}; learning rate {} for a batch of {}, scaled to {:.3e}",
        config.method,
        config.vit().name(),
        parameters as f64 / 1e6,
        images.train.len(),
        images.val.as_ref().map_or(String::new(), |val| format!(" and {} to validate", val.len())),
        config.train.epochs,
        training.total_steps() / config.train.epochs.max(1) as u64,
        config.train.batch_size,
        if config.train.accumulate > 1 { format!(" x {} accumulated", config.train.accumulate) } else { String::new() },
        config.optim.lr,
        config.optim.lr_batch,
        config.learning_rate(),
    )
}

/// MoCo v3 decays everything; masked image modelling matrices alone, which is how the table begins.
fn apply_decay(config: &Config, method: &mut dyn Method) {
    if config.optim.decay_all {
        method.parameters_mut().entries_mut().iter_mut().for_each(|e| e.decay = 1.0);
    }
}

/// Takes a backbone's weights where names and shapes agree; all of them must.
fn initialise_from(path: &Path, method: &mut dyn Method) -> Result<(), Error> {
    let (source, _) = backbone::load(path, &BackboneOverrides::default())?;
    let (theirs, ours) = (source.vit.config.name(), method.backbone().0.config.name());
    if theirs != ours {
        return Err(Error::Setting(format!("--init {}: it is {theirs}, the run trains {ours}; set model.* alike", path.display())));
    }
    method.load_backbone(&source.parameters);
    Ok(())
}

fn summary(config: &Config, folder: &RunFolder, progress: &Progress) -> Summary {
    Summary {
        method: config.method.to_string(),
        backbone: folder.backbone(),
        epochs: config.train.epochs,
        steps: progress.step,
        seconds: progress.seconds,
        best_knn_top1: progress.best_knn,
    }
}

/// Tells a run apart from one on other images or with another teacher.
fn identity(config: &Config, images: &Images, teacher: Option<&[f32]>) -> String {
    let val = images.val.as_ref().map_or(0, Dataset::digest);
    let teacher = teacher.map_or(0, |weights| weights.iter().fold(0u64, |h, w| (h ^ w.to_bits() as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(5)));
    format!("{:016x}-{val:016x}-{teacher:016x}-{}", images.train.digest(), config.seed)
}

/// What the run ran on, for `environment.json`.
fn environment() -> String {
    let facts = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "cpu_features": cpu_features(),
        "threads": mimco_engine::cpu::threads::threads(),
    });
    format!("{facts:#}\n")
}

fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
