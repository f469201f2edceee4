//! One stage of a run: from its settings to its export.

use super::checkpoint::{self, Progress};
use super::console::Console;
use super::info::backbone_info;
use super::metrics::last_figure;
use super::run_folder::RunFolder;
use super::train::{Trained, Training};
use super::watch::Watch;
use super::{Images, Summary};
use crate::interop::backbone::{self, Loaded};
use crate::interop::info::Info;
use crate::methods::Method;
use crate::methods::mask::MaskGenerator;
use crate::methods::mimco::Mimco;
use crate::methods::moco_v3::MocoV3;
use crate::models::backbone::Backbone;
use crate::report::{RunReport, write_run};
use crate::settings::{Config, OptimizerName};
use crate::{Error, files};
use mimco_data::Dataset;
use mimco_data::loader::{Loader, LoaderOptions};
use mimco_engine::optim::{Optimizer, Rule, gradient_norm};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// One stage to run.
pub(super) struct Stage<'a> {
    /// Its settings.
    pub config: &'a Config,
    /// Its run folder.
    pub folder: &'a RunFolder,
    /// The frozen teacher, for MimCo.
    pub teacher: Option<PathBuf>,
    /// Weights to begin from.
    pub init: Option<&'a Backbone>,
    /// Updates of the stage before.
    pub steps_before: u64,
    /// Whether the run was begun before and had ended the stage before this one.
    pub goes_on: bool,
    /// Set by a signal.
    pub interrupted: &'a AtomicBool,
}

impl Stage<'_> {
    /// Runs the stage to its end, or takes it up where it stopped: its summary, and whether all had been done before; `None` after a signal.
    pub fn run(&self, images: &Images) -> Result<Option<(Summary, bool)>, Error> {
        let (config, folder) = (self.config, self.folder);
        let (teacher, teacher_info) = self.load_teacher()?.map(|loaded| (loaded.backbone, loaded.info)).unzip();
        let (mut method, identity) = self.method(images, teacher)?;
        let begun = folder.last().exists();
        if begun {
            let progress = checkpoint::progress(&folder.last())?;
            if progress.finished && progress.identity == identity && folder.backbone().exists() {
                let seconds = last_figure(&folder.path, "perf/seconds").unwrap_or(0.0);
                return Ok(Some((summary(config, folder, &progress, seconds), true)));
            }
        }
        let console = Console::open(folder)?;
        if !begun {
            if let Some(init) = self.init {
                method.load_backbone(&init.parameters);
            }
            files::write_atomically(&folder.config(), config.to_toml().as_bytes())?;
            files::write_atomically(&folder.environment(), environment().as_bytes())?;
        }
        apply_decay(config, method.as_mut());
        let optimizer = Optimizer::new(rule(config), config.optim.weight_decay, method.parameters());
        let options = LoaderOptions {
            batch_size: config.train.batch_size,
            seed: config.seed,
            workers: config.workers(),
            queue: 4,
            image_size: config.model.image_size as u32,
            max_broken: config.data.max_broken,
        };
        let loader = Loader::new(images.train.clone(), method.pipeline(), options);
        let watch = Watch::new(config, &images.train, images.val.as_ref(), config.feature_kind());
        let training = Training {
            config,
            folder,
            loader: &loader,
            method: method.as_mut(),
            optimizer,
            watch: &watch,
            console: &console,
            interrupted: self.interrupted,
            identity,
            steps_before: self.steps_before,
        };
        console.say(&opening(config, &training, images));
        if self.goes_on && !begun {
            console.say(&format!("resumed at step {}", self.steps_before));
        }
        let Some(trained) = training.run()? else { return Ok(None) };
        let summary = finish(config, folder, method.as_ref(), trained, images.train.digest(), teacher_info.as_ref())?;
        console.say(&format!("finished: {}", folder.backbone().display()));
        Ok(Some((summary, false)))
    }

    fn load_teacher(&self) -> Result<Option<Loaded>, Error> {
        match (&self.config.mimco, &self.teacher) {
            (Some(_), Some(path)) => backbone::load(path, &self.config.teacher_overrides()).map(Some),
            _ => Ok(None),
        }
    }

    /// What is to be trained, and digests of settings, images and teacher that tell the run apart from another.
    fn method(&self, images: &Images, teacher: Option<Backbone>) -> Result<(Box<dyn Method>, String), Error> {
        let config = self.config;
        let identity = identity(config, images, [teacher.as_ref(), self.init]);
        let vit = config.vit();
        let method: Box<dyn Method> = match (&config.moco_v3, &config.mimco, &config.mask, teacher) {
            (_, Some(settings), Some(mask), Some(teacher)) => {
                let mask = MaskGenerator::new(vit.grid(), mask.unit(&vit), mask.ratio);
                Box::new(Mimco::new(config, &vit, settings, mask, teacher, images.train.len())?)
            }
            (Some(settings), None, ..) => Box::new(MocoV3::new(config, &vit, settings)),
            _ => return Err(Error::Setting(format!("the settings of {} are not whole; begin from a recipe", config.method))),
        };
        Ok((method, identity))
    }
}

/// Writes what a finished stage leaves: the export, the report, and a checkpoint that says so.
fn finish(
    config: &Config,
    folder: &RunFolder,
    method: &dyn Method,
    trained: Trained,
    digest: u64,
    teacher: Option<&Info>,
) -> Result<Summary, Error> {
    let Trained { mut progress, optimizer, seconds } = trained;
    let (vit, parameters) = method.backbone();
    if progress.skipped_in_a_row > 0 || !gradient_norm(parameters.flat()).is_finite() {
        return Err(Error::Training(format!(
            "the training ended with numbers that are not finite, so nothing was exported; the last good checkpoint is in {}; lower optim.lr or \
             set optim.clip, and begin anew in another --out",
            folder.checkpoints().display()
        )));
    }
    let info = backbone_info(config, vit, progress.optimizer_steps, Some(digest), teacher);
    backbone::save(&folder.backbone(), parameters, &info)?;
    progress.finished = true;
    let summary = summary(config, folder, &progress, seconds);
    let mut facts = vec![
        ("backbone".to_string(), vit.config.name()),
        ("epochs".to_string(), config.train.epochs.to_string()),
        ("updates".to_string(), progress.step.to_string()),
        ("minutes".to_string(), format!("{:.1}", seconds / 60.0)),
        ("seed".to_string(), config.seed.to_string()),
    ];
    facts.extend(summary.best_knn_top1.map(|knn| ("best kNN accuracy while training".to_string(), format!("{knn:.1} %"))));
    let title = format!("{}: a run of mimco", config.method);
    let mut notes = Vec::new();
    if progress.skipped > 0 {
        notes.push(format!("{} updates were skipped, since their loss or gradient was not finite.", progress.skipped));
    }
    if !progress.broken.is_empty() {
        notes.push(format!("{} images could not be read and were replaced by others; train.log names them.", progress.broken.len()));
    }
    let report = RunReport { title: &title, facts: &facts, metrics: &folder.metrics(), config: &config.to_toml(), notes: &notes };
    write_run(&folder.report(), &report)?;
    checkpoint::save(&folder.last(), config, method, &optimizer, &progress)?;
    Ok(summary)
}

fn rule(config: &Config) -> Rule {
    match config.optim.name {
        OptimizerName::Adamw => Rule::AdamW { beta1: config.optim.betas[0], beta2: config.optim.betas[1], eps: config.optim.eps },
        OptimizerName::Sgd => Rule::Sgd { momentum: config.optim.betas[0] },
    }
}

/// The settings for a set of this size: one smaller than an update's images trains with the batch reduced, which is said.
pub(super) fn fit_batch(config: &Config, images: usize) -> (Config, Option<String>) {
    let mut config = config.clone();
    let asked = config.images_per_update();
    if images >= asked {
        return (config, None);
    }
    config.train.accumulate = config.train.accumulate.min(images / 2).max(1);
    config.train.batch_size = config.train.batch_size.min(images / config.train.accumulate);
    let said = format!(
        "{images} images are fewer than a batch of {asked}: training with batches of {} (few negatives; more images serve better)",
        config.train.batch_size
    );
    (config, Some(said))
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

fn summary(config: &Config, folder: &RunFolder, progress: &Progress, seconds: f64) -> Summary {
    Summary {
        method: config.method.to_string(),
        backbone: folder.backbone(),
        epochs: config.train.epochs,
        steps: progress.step,
        seconds,
        best_knn_top1: progress.best_knn,
    }
}

/// Tells a run apart from one with other settings, on other images, with another teacher or other weights to begin from.
fn identity(config: &Config, images: &Images, backbones: [Option<&Backbone>; 2]) -> String {
    let val = images.val.as_ref().map_or(0, Dataset::digest);
    let mix = |hash: u64, bits: u64| (hash ^ bits).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    let settings = config.lasting().bytes().fold(0, |hash, byte| mix(hash, byte as u64));
    let backbones = backbones.map(|backbone| {
        backbone.map_or(String::new(), |backbone| {
            let weights = backbone.parameters.flat().iter().fold(0, |hash, weight| mix(hash, weight.to_bits() as u64));
            let vit = &backbone.vit.config;
            format!("{weights:016x} {} {:?} {:?}", vit.name(), vit.mean, vit.std)
        })
    });
    format!("{settings:016x}-{:016x}-{val:016x}-{}", images.train.digest(), backbones.join("-"))
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
