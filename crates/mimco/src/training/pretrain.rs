//! Pre-training: from a request to finished run folders, one for each stage.

use super::images::Images;
use super::run_folder::RunFolder;
use super::setup::fit_batch;
use super::summary::Summary;
use super::train::{Stage, StageOutcome, train};
use crate::Error;
use crate::interop::backbone;
use crate::models::backbone::Backbone;
use crate::models::overrides::BackboneOverrides;
use crate::settings::{Config, Plan};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A request to pre-train, apart from its images.
pub struct Run {
    /// Settings of the stages.
    pub plan: Plan,
    /// Checkpoint of a frozen teacher; the run then trains the student alone.
    pub teacher: Option<PathBuf>,
    /// Checkpoint with initial weights for the main stage.
    pub init: Option<PathBuf>,
    /// The run folder.
    pub out: PathBuf,
    /// Whether to remove an earlier run in that folder.
    pub overwrite: bool,
    /// Set by a signal.
    pub interrupted: Arc<AtomicBool>,
}

/// How a run ended.
pub enum Outcome {
    /// The stages are trained, in this order.
    Finished(Vec<Summary>),
    /// Earlier processes had finished all stages.
    AlreadyFinished(Vec<Summary>),
    /// A signal ended the run, after a checkpoint.
    Interrupted,
}

/// Trains the stages of a plan: a teacher if there is one, then the main stage.
///
/// # Errors
/// What cannot be read, written or trained. Everything that can be checked first is checked before
/// anything is removed, created or trained.
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
        check_inputs_survive(run)?;
        RunFolder::clear(&run.out)?;
    }
    // All folders are locked from the start, so that no other run trains there between two stages.
    let folders = stages.iter().rev().map(|(_, out)| RunFolder::open(out)).collect::<Result<Vec<_>, Error>>()?;
    if let Err(error) = images.train.write_listing_cache(&RunFolder::listing(&run.out)) {
        tracing::warn!("{error}; a resumed run will list the images again");
    }
    if let Some(message) = fit_batch(&run.plan.main, images.train.len()).1 {
        tracing::info!("{message}");
    }
    let mut summaries: Vec<Summary> = Vec::new();
    let mut all_before = true;
    for ((config, _), folder) in stages.iter().zip(folders.iter().rev()) {
        let is_main = folder.path == run.out;
        let outcome = train(Stage {
            config,
            folder,
            images,
            teacher: summaries.last().map(|s| s.backbone.clone()).or(run.teacher.clone()).filter(|_| is_main),
            init: init.as_ref().filter(|_| is_main),
            steps_before: summaries.iter().map(|s| s.steps).sum(),
            continues: all_before && !summaries.is_empty(),
            interrupted: &run.interrupted,
        })?;
        match outcome {
            StageOutcome::Interrupted => return Ok(Outcome::Interrupted),
            StageOutcome::AlreadyFinished(summary) => summaries.push(summary),
            StageOutcome::Finished(summary) => {
                all_before = false;
                summaries.push(summary);
            }
        }
    }
    Ok(if all_before { Outcome::AlreadyFinished(summaries) } else { Outcome::Finished(summaries) })
}

/// Checks that the teacher fits the student, before anything trains.
fn check_teachers(run: &Run) -> Result<(), Error> {
    let main = &run.plan.main;
    let spec = main.method.spec();
    match (&run.teacher, &run.plan.teacher) {
        _ if !spec.needs_teacher() => Ok(()),
        (Some(path), _) => spec.check_teacher(&backbone::model(path, &main.teacher_overrides())?, &main.vit()),
        (None, Some(config)) => spec.check_teacher(&config.vit(), &main.vit()),
        (None, None) => Err(Error::Setting(format!("{} needs a teacher; give --teacher FILE, or let the run train one", spec.name()))),
    }
}

/// Loads initial weights of the main stage's shape.
fn load_init(path: &Path, config: &Config) -> Result<Backbone, Error> {
    let source = backbone::load(path, &BackboneOverrides::default())?.backbone;
    let (theirs, ours) = (source.vit.config.name(), config.vit().name()); // sizes and heads
    if theirs != ours {
        return Err(Error::Setting(format!(
            "--init {}: the file contains {theirs}, the run trains {ours}; set model.* alike",
            path.display()
        )));
    }
    Ok(source)
}

/// Checks that `--overwrite` does not remove what the run starts from.
fn check_inputs_survive(run: &Run) -> Result<(), Error> {
    let Ok(out) = run.out.canonicalize() else { return Ok(()) };
    let inside = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| path.starts_with(&out));
    match run.teacher.iter().chain(&run.init).find(inside) {
        Some(path) => {
            Err(Error::Setting(format!("--overwrite would remove {}; copy it elsewhere first, or give another --out", path.display())))
        }
        None => Ok(()),
    }
}
