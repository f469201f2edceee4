//! Pre-training: from a request to a finished run folder.

pub mod checkpoint;
mod console;
mod info;
pub mod metrics;
mod run_folder;
pub mod schedule;
mod stage;
mod train;
pub mod watch;

use crate::Error;
use crate::interop::backbone;
use crate::methods::mimco::check_teacher;
use crate::models::backbone::Backbone;
use crate::models::overrides::BackboneOverrides;
use crate::settings::{Config, Data, Plan};
use mimco_data::Dataset;
pub use run_folder::RunFolder;
use serde::Serialize;
use stage::{Stage, fit_batch};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What `pretrain` is asked for, its images apart.
pub struct Run {
    /// The stages' settings.
    pub plan: Plan,
    /// A frozen teacher: stage 2 alone.
    pub teacher: Option<PathBuf>,
    /// Weights that the last stage begins from (weights only, unlike a resume).
    pub init: Option<PathBuf>,
    /// The run folder.
    pub out: PathBuf,
    /// Start anew, removing what an earlier run wrote there.
    pub overwrite: bool,
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

/// How a run ended.
pub enum Outcome {
    /// All stages done, in this order.
    Finished(Vec<Summary>),
    /// Everything had been done before.
    AlreadyFinished(Vec<Summary>),
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

/// Runs the stages: a teacher where the plan has one, then the main stage.
///
/// # Errors
/// What cannot be trained, read or written; the last checkpoint is whole whatever happens. What can be told to be wrong is told before anything
/// is removed, made or trained.
pub fn pretrain(run: &Run, images: &Images) -> Result<Outcome, Error> {
    check_teachers(run)?;
    let init = run.init.as_deref().map(|path| load_init(path, &run.plan.main)).transpose()?;
    let stages: Vec<(Config, PathBuf)> = run
        .plan
        .teacher
        .iter()
        .map(|config| (config, run.out.join("teacher")))
        .chain([(&run.plan.main, run.out.clone())])
        .map(|(config, out)| (fit_batch(config, images.train.len()).0, out))
        .collect();
    for (config, out) in &stages {
        RunFolder::check(out, config, run.overwrite)?;
    }
    if run.overwrite {
        check_inputs_stay(run)?;
        RunFolder::clear(&run.out)?;
    }
    // The main folder is held from the beginning, so that no other run comes between the stages.
    let folders = stages.iter().rev().map(|(_, out)| RunFolder::open(out)).collect::<Result<Vec<_>, Error>>()?;
    if let Err(error) = images.train.keep_index(&RunFolder::index(&run.out)) {
        tracing::warn!("{error}; the images will be looked for anew if the run is resumed");
    }
    if let Some(said) = fit_batch(&run.plan.main, images.train.len()).1 {
        tracing::info!("{said}");
    }
    let mut summaries: Vec<Summary> = Vec::new();
    let mut all_before = true;
    for ((config, _), folder) in stages.iter().zip(folders.iter().rev()) {
        let is_main = folder.path == run.out;
        let stage = Stage {
            config,
            folder,
            teacher: summaries.last().map(|s| s.backbone.clone()).or(run.teacher.clone()).filter(|_| is_main),
            init: init.as_ref().filter(|_| is_main),
            steps_before: summaries.iter().map(|s| s.steps).sum(),
            goes_on: all_before && !summaries.is_empty(),
            interrupted: &run.interrupted,
        };
        let Some((summary, before)) = stage.run(images)? else { return Ok(Outcome::Interrupted) };
        all_before &= before;
        summaries.push(summary);
    }
    Ok(if all_before { Outcome::AlreadyFinished(summaries) } else { Outcome::Finished(summaries) })
}

/// A teacher that does not fit its student is told before anything trains.
fn check_teachers(run: &Run) -> Result<(), Error> {
    let main = &run.plan.main;
    let Some(settings) = &main.mimco else { return Ok(()) };
    match (&run.teacher, &run.plan.teacher) {
        (Some(path), _) => check_teacher(settings, &backbone::model(path, &main.teacher_overrides())?, &main.vit()),
        (None, Some(config)) => check_teacher(settings, &config.vit(), &main.vit()),
        (None, None) => Err(Error::Setting("mimco needs a teacher; give --teacher FILE, or leave it out of the plan to train one".into())),
    }
}

/// Weights to begin from, of the main stage's shape.
fn load_init(path: &Path, config: &Config) -> Result<Backbone, Error> {
    let source = backbone::load(path, &BackboneOverrides::default())?.backbone;
    let (theirs, ours) = (source.vit.config.name(), config.vit().name()); // sizes and heads
    if theirs != ours {
        return Err(Error::Setting(format!("--init {}: it is {theirs}, the run trains {ours}; set model.* alike", path.display())));
    }
    Ok(source)
}

/// What `--overwrite` would remove must not be what the run begins from.
fn check_inputs_stay(run: &Run) -> Result<(), Error> {
    let Ok(out) = run.out.canonicalize() else { return Ok(()) };
    let inside = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| path.starts_with(&out));
    match run.teacher.iter().chain(&run.init).find(inside) {
        Some(path) => {
            Err(Error::Setting(format!("--overwrite would remove {}; copy it elsewhere first, or give another --out", path.display())))
        }
        None => Ok(()),
    }
}

/// Finds the images of a request. Labels are used only with `val`, or where `data` has `train/` and `val/` or `validation/` class folders. `out` is
/// the run folder: an index there, of an earlier sitting, tells where many images lie.
///
/// # Errors
/// What is not there, holds no image, or holds one alone.
pub fn open_images(data: &Path, val: Option<&Path>, out: &Path, settings: &Data) -> Result<Images, Error> {
    let index = RunFolder::index(out);
    let images = match val {
        Some(val) => {
            let train = Dataset::open(data, true, Some(&index))?;
            let val = Dataset::labelled(val)?.with_classes(train.classes())?;
            Images { train, val: Some(val) }
        }
        None => match Dataset::splits(data, Some(&index))? {
            Some((train, val)) => Images { train, val: Some(val) },
            None => Images { train: Dataset::open(data, false, Some(&index))?, val: None },
        },
    };
    if images.train.len() < 2 {
        return Err(Error::Training(format!("{} holds one image; two are the least to train on, thousands are better", data.display())));
    }
    let limited = |set: Dataset| set.with_max_pixels(settings.max_pixels).with_window(settings.window_mib.saturating_mul(1 << 20));
    Ok(Images { train: limited(images.train), val: images.val.map(limited) })
}
