//! Pre-training: from a request to a finished run folder.

pub mod checkpoint;
mod console;
pub mod metrics;
mod run_folder;
pub mod schedule;
mod stage;
mod train;
pub mod watch;

use crate::Error;
use crate::interop::backbone;
use crate::methods::mimco::check_teacher;
use crate::settings::{Config, Plan};
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
/// What cannot be trained, read or written; the last checkpoint is whole whatever happens.
pub fn pretrain(run: &Run, images: &Images) -> Result<Outcome, Error> {
    check_teachers(run)?;
    if run.overwrite {
        RunFolder::clear(&run.out)?;
    }
    let stages: Vec<(&Config, PathBuf)> =
        run.plan.teacher.iter().map(|config| (config, run.out.join("teacher"))).chain([(&run.plan.main, run.out.clone())]).collect();
    for (config, out) in &stages {
        RunFolder::check(out, &fit_batch(config, images.train.len()).0)?;
    }
    let mut summaries = Vec::new();
    let mut all_before = true;
    for (config, out) in stages {
        let is_main = out == run.out;
        let teacher = if is_main { summaries.last().map(|s: &Summary| s.backbone.clone()).or(run.teacher.clone()) } else { None };
        let stage = Stage {
            config,
            out,
            teacher,
            overrides: &run.plan.given_teacher,
            init: run.init.clone().filter(|_| is_main),
            steps_before: summaries.iter().map(|s: &Summary| s.steps).sum(),
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
    let Some(settings) = &run.plan.main.mimco else { return Ok(()) };
    match (&run.teacher, &run.plan.teacher) {
        (Some(path), _) => check_teacher(settings, &backbone::load(path, &run.plan.given_teacher)?.0.vit.config, &run.plan.main.vit()),
        (None, Some(config)) => check_teacher(settings, &config.vit(), &run.plan.main.vit()),
        (None, None) => Err(Error::Setting("mimco needs a teacher; give --teacher FILE, or leave it out of the plan to train one".into())),
    }
}

/// Finds the images of a request. Labels are used only with `val`, or where `data` has `train/` and `val/` or `validation/` class folders.
///
/// # Errors
/// What is not there, holds no image, or holds one alone.
pub fn open_images(data: &Path, val: Option<&Path>, max_pixels: u64) -> Result<Images, Error> {
    let images = match val {
        Some(val) => {
            let train = Dataset::labelled(data)?;
            let val = Dataset::labelled(val)?.with_classes(train.classes())?;
            Images { train, val: Some(val) }
        }
        None => match Dataset::splits(data)? {
            Some((train, val)) => Images { train, val: Some(val) },
            None => Images { train: Dataset::heap(data)?, val: None },
        },
    };
    if images.train.len() < 2 {
        return Err(Error::Training(format!("{} holds one image; two are the least to train on, thousands are better", data.display())));
    }
    Ok(Images { train: images.train.with_max_pixels(max_pixels), val: images.val.map(|val| val.with_max_pixels(max_pixels)) })
}
