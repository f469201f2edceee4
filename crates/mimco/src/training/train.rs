//! The training loop: open, build, restore or begin; then for each epoch updates, an evaluation and a
//! checkpoint. A run that is interrupted anywhere continues from its last checkpoint with the same bits.

use super::checkpoint::{self, Progress};
use super::console::Console;
use super::environment::environment;
use super::identity::identity;
use super::images::Images;
use super::info::backbone_info;
use super::metrics::{MetricsWriter, last_value};
use super::monitor::Monitor;
use super::run_folder::RunFolder;
use super::setup::{loader_options, opening_line, rule, steps_per_epoch};
use super::summary::Summary;
use super::throughput::Throughput;
use crate::interop::backbone::{self, Loaded};
use crate::interop::info::Info;
use crate::methods::{Method, StepInfo, StepMetrics};
use crate::models::backbone::Backbone;
use crate::schedule::learning_rate;
use crate::settings::Config;
use crate::{Error, files};
use mimco_data::loader::{Batch, Epoch, Loader};
use mimco_engine::optim::{Optimizer, finite_flag};
use mimco_engine::{Gradients, Tensor, peak_flops};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A stage of a run, to train or to continue.
pub(super) struct Stage<'a> {
    /// Settings of the stage.
    pub config: &'a Config,
    /// Run folder of the stage.
    pub folder: &'a RunFolder,
    /// Training and validation images.
    pub images: &'a Images,
    /// Checkpoint of the frozen teacher, for a method that needs one.
    pub teacher: Option<PathBuf>,
    /// Initial weights of the backbone.
    pub init: Option<&'a Backbone>,
    /// Updates of the stages before this one.
    pub steps_before: u64,
    /// Whether an earlier process trained the stage before this one.
    pub continues: bool,
    /// Set by a signal: write a checkpoint and stop.
    pub interrupted: &'a AtomicBool,
}

/// How a stage ended.
pub(super) enum StageOutcome {
    /// It is trained and exported.
    Finished(Summary),
    /// An earlier process had finished it.
    AlreadyFinished(Summary),
    /// A signal ended it, after a checkpoint.
    Interrupted,
}

/// Trains a stage to its end or to a signal, from its beginning or from its last checkpoint.
///
/// # Errors
/// What cannot be read, written or trained. The last checkpoint remains intact.
pub(super) fn train(stage: Stage<'_>) -> Result<StageOutcome, Error> {
    let mut training = match Training::open(stage)? {
        Opened::Unfinished(training) => training,
        Opened::Finished(summary) => return Ok(StageOutcome::AlreadyFinished(summary)),
    };
    let mut gradients = training.method.parameters().gradients();
    while training.progress.epoch < training.epochs() {
        let mut batches = training.loader.epoch(training.progress.epoch, training.progress.batch as usize);
        while training.progress.batch < training.batches_per_epoch() {
            gradients.clear();
            let mut metrics = Vec::new();
            for part in 0..training.accumulate() {
                let batch = training.next_batch(&mut batches)?;
                let (info, loss_scale) = (training.step_info(part), training.loss_scale());
                metrics.push(training.method.step(&batch, info, loss_scale, &mut gradients));
                training.progress.batch += 1;
                training.loader.recycle(batch);
            }
            training.update(&gradients, metrics)?;
            if !training.at_end_of_epoch() {
                let interrupted = training.is_interrupted(); // read once: a signal may come at any time
                if interrupted || training.checkpoint_is_due() {
                    training.checkpoint(&training.stage.folder.last())?;
                }
                if interrupted {
                    return training.interrupt();
                }
            }
        }
        drop(batches);
        training.end_epoch()?;
        if training.is_interrupted() && training.progress.epoch < training.epochs() {
            return training.interrupt();
        }
    }
    training.finish().map(StageOutcome::Finished)
}

/// A stage in training.
struct Training<'a> {
    stage: Stage<'a>,
    method: Box<dyn Method>,
    optimizer: Optimizer,
    loader: Loader,
    monitor: Monitor,
    console: Console,
    metrics: MetricsWriter,
    throughput: Throughput,
    progress: Progress,
    /// Steps since the host last read the device.
    unread: Vec<UnreadStep>,
    teacher_info: Option<Info>,
    /// Floating-point operations per second of a large matrix product, the reference of `perf/mfu`.
    peak_flops: f64,
}

/// A step whose metrics are still on the device.
struct UnreadStep {
    step: u64,
    /// Metrics of each accumulated batch.
    metrics: Vec<StepMetrics>,
    /// Norm of the gradient, `[1]`.
    norm: Tensor,
    /// 1 if loss and gradient are finite, else 0; `[1]`.
    finite: Tensor,
    rate: f64,
}

enum Opened<'a> {
    Unfinished(Box<Training<'a>>),
    Finished(Summary),
}

impl<'a> Training<'a> {
    /// Builds the method, then restores the last checkpoint or begins a new run folder.
    fn open(stage: Stage<'a>) -> Result<Opened<'a>, Error> {
        let (config, folder, images) = (stage.config, stage.folder, stage.images);
        let (teacher, teacher_info) = load_teacher(&stage)?.map(|loaded| (loaded.backbone, loaded.info)).unzip();
        let identity = identity(config, images, [teacher.as_ref(), stage.init]);
        let mut method = config.build_method(teacher, images.train.len())?;
        let last = folder.last().exists().then(|| checkpoint::progress(&folder.last())).transpose()?;
        if let Some(progress) = &last
            && progress.finished
            && progress.identity == identity
            && folder.backbone().exists()
        {
            let seconds = last_value(&folder.path, "perf/seconds").unwrap_or(0.0);
            return Ok(Opened::Finished(Summary::new(config, folder, progress, seconds)));
        }
        let console = Console::open(folder)?;
        if config.optim.decay_all {
            method.parameters_mut().entries_mut().iter_mut().for_each(|entry| entry.decay = 1.0);
        }
        let mut optimizer = Optimizer::new(rule(config), config.optim.weight_decay, method.parameters());
        let loader = Loader::new(images.train.clone(), config.views(), loader_options(config));
        console.log(&opening_line(config, method.as_ref(), &loader, images));
        let (progress, metrics) = if last.is_some() {
            let progress = checkpoint::restore(&folder.last(), method.as_mut(), &mut optimizer)?;
            if progress.identity != identity {
                return Err(Error::Setting(format!(
                    "{} holds a run with other images, another teacher or other initial weights; give the same ones to resume, another \
                     --out, or --overwrite",
                    folder.path.display()
                )));
            }
            let metrics = MetricsWriter::resume_at(&folder.path, &progress.metrics)?;
            console.log(&format!("resumed at step {}", stage.steps_before + progress.step));
            (progress, metrics)
        } else {
            if let Some(init) = stage.init {
                method.load_backbone(&init.parameters);
            }
            files::write_atomically(&folder.config(), config.to_toml().as_bytes())?;
            files::write_atomically(&folder.environment(), environment().as_bytes())?;
            if stage.continues {
                console.log(&format!("resumed at step {}", stage.steps_before));
            }
            (Progress { identity, ..Progress::default() }, MetricsWriter::create(&folder.path)?)
        };
        let peak_flops = peak_flops(config.precision.engine()); // measured before the clock starts
        let training = Training {
            monitor: Monitor::new(config, &images.train, images.val.as_ref()),
            throughput: Throughput::start(last_value(&folder.path, "perf/seconds").unwrap_or(0.0)),
            stage,
            method,
            optimizer,
            loader,
            console,
            metrics,
            progress,
            unread: Vec::new(),
            teacher_info,
            peak_flops,
        };
        training.console.start_bar(training.progress.step, training.total_steps());
        Ok(Opened::Unfinished(Box::new(training)))
    }

    fn config(&self) -> &'a Config {
        self.stage.config
    }

    fn epochs(&self) -> u64 {
        self.config().train.epochs as u64
    }

    /// Returns the number of batches whose gradients are added before an update.
    fn accumulate(&self) -> u64 {
        self.config().train.accumulate as u64
    }

    /// Returns the factor of the loss of one batch.
    fn loss_scale(&self) -> f32 {
        1.0 / self.config().train.accumulate as f32
    }

    /// Returns the number of batches of an epoch: whole updates only.
    fn batches_per_epoch(&self) -> u64 {
        steps_per_epoch(self.config(), &self.loader) * self.accumulate()
    }

    fn total_steps(&self) -> u64 {
        steps_per_epoch(self.config(), &self.loader) * self.epochs()
    }

    fn at_end_of_epoch(&self) -> bool {
        self.progress.batch == self.batches_per_epoch()
    }

    fn checkpoint_is_due(&self) -> bool {
        self.progress.step.is_multiple_of(self.config().train.checkpoint_steps)
    }

    fn is_interrupted(&self) -> bool {
        self.stage.interrupted.load(Ordering::Relaxed)
    }

    /// Describes the step for batch `part` of an update.
    fn step_info(&self, part: u64) -> StepInfo {
        let (step, epoch) = (self.progress.step, self.progress.epoch);
        StepInfo { step, draw: step * self.accumulate() + part, total: self.total_steps(), epoch, seed: self.config().seed }
    }

    /// Waits for the next batch.
    fn next_batch(&mut self, batches: &mut Epoch) -> Result<Batch, Error> {
        let waiting = Instant::now();
        let ended = || Error::Training("the loader ended before its epoch; run the same command again to resume".into());
        let batch = batches.next().ok_or_else(ended)??;
        self.throughput.add_batch(waiting, batch.indices.len());
        self.progress.broken.extend(&batch.broken);
        self.loader.check_broken(&self.progress.broken)?;
        Ok(batch)
    }

    /// Updates the parameters, unless loss or gradient are not finite: then the engine discards the step.
    /// Writes metrics if they are due; only then does the host read them.
    fn update(&mut self, gradients: &Gradients, metrics: Vec<StepMetrics>) -> Result<(), Error> {
        let config = self.config();
        let info = self.step_info(0);
        let warmup = config.warmup_steps(info.total);
        let rate = learning_rate(info.step, info.total, warmup, config.learning_rate(), config.min_learning_rate());
        let norm = gradients.norm();
        let losses: Vec<&Tensor> = metrics.iter().flat_map(StepMetrics::losses).collect();
        let finite = finite_flag(&norm, &losses);
        self.optimizer.step(self.method.parameters_mut(), gradients, rate as f32, config.optim.clip, &norm, &finite);
        self.method.after_update(StepInfo { step: info.step + 1, ..info }, &finite);
        self.progress.step += 1;
        self.unread.push(UnreadStep { step: self.progress.step, metrics, norm, finite, rate });
        if self.progress.step.is_multiple_of(config.train.log_steps) || self.progress.step == info.total {
            self.write_metrics()?;
        }
        self.console.move_bar(self.progress.step);
        Ok(())
    }

    /// Reads the metrics of the steps since the last call, and counts those that were skipped.
    fn read_steps(&mut self) -> Result<(), Error> {
        let loss_scale = self.loss_scale() as f64;
        for unread in std::mem::take(&mut self.unread) {
            if unread.finite.to_host()[0] == 0.0 {
                self.count_skipped_step(unread.step)?;
            } else {
                self.progress.skipped_in_a_row = 0;
                let mut metrics = BTreeMap::from([("optim/grad_norm", f64::from(unread.norm.to_host()[0]))]);
                for (name, value) in unread.metrics.iter().flat_map(StepMetrics::to_host) {
                    *metrics.entry(name).or_default() += value * loss_scale;
                }
                self.progress.add_metrics(&metrics);
                self.console.show_loss(metrics.get("train/loss"));
            }
            self.progress.pending.insert("optim/lr".into(), (unread.rate, 1));
        }
        self.progress.optimizer_steps = self.optimizer.steps();
        Ok(())
    }

    /// Counts a step whose loss or gradient is not finite.
    fn count_skipped_step(&mut self, step: u64) -> Result<(), Error> {
        self.progress.skipped += 1;
        self.progress.skipped_in_a_row += 1;
        self.console.log(&format!("step {step}: loss or gradient not finite, step skipped ({} so far)", self.progress.skipped));
        if self.progress.skipped_in_a_row < self.config().train.max_bad_steps {
            return Ok(());
        }
        Err(Error::Training(format!(
            "{} steps in a row had a loss or gradient that is not finite; the last good checkpoint is intact in {}; lower optim.lr or set \
             optim.clip, and start again in another --out, with --init and that checkpoint, or with --overwrite",
            self.progress.skipped_in_a_row,
            self.stage.folder.checkpoints().display()
        )))
    }

    /// Writes the means since the last line of metrics to the files and the screen.
    fn write_metrics(&mut self) -> Result<(), Error> {
        self.read_steps()?;
        let mut line = self.progress.take_means();
        if self.progress.skipped > 0 {
            line.insert("train/skipped_steps".into(), self.progress.skipped as f64);
        }
        let (images_per_second, data_wait) = self.throughput.take();
        line.insert("perf/img_per_s".into(), images_per_second);
        line.insert("perf/data_wait".into(), data_wait);
        line.insert("perf/mfu".into(), images_per_second * self.method.flop_per_image() / self.peak_flops);
        line.insert("perf/seconds".into(), self.throughput.seconds()); // checkpoints contain no clock
        self.metrics.log(self.progress.step, self.progress.epoch, &line)?;
        self.console.metrics(self.progress.step, self.total_steps(), self.progress.epoch, self.epochs(), &line);
        Ok(())
    }

    /// Evaluates the features in epochs that require it, and writes a checkpoint.
    fn end_epoch(&mut self) -> Result<(), Error> {
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.console.report_broken(&self.loader.broken());
        let every = self.config().train.eval_epochs.max(1) as u64;
        if self.progress.epoch.is_multiple_of(every) || self.progress.epoch == self.epochs() {
            let paused = Instant::now();
            let (vit, parameters) = self.method.backbone();
            let evaluation = self.monitor.evaluate(vit, parameters)?;
            self.throughput.exclude(paused);
            self.metrics.log(self.progress.step, self.progress.epoch - 1, &evaluation.metrics)?;
            self.console.evaluation(self.progress.epoch, &evaluation);
            if let Some(&knn) = evaluation.metrics.get("eval/knn_top1")
                && self.progress.best_knn.is_none_or(|best| knn > best)
            {
                self.progress.best_knn = Some(knn);
                self.checkpoint(&self.stage.folder.best())?;
            }
        }
        self.checkpoint(&self.stage.folder.last())
    }

    /// Writes a checkpoint, unless the parameters are not finite.
    fn checkpoint(&mut self, path: &Path) -> Result<(), Error> {
        self.read_steps()?;
        if self.progress.skipped_in_a_row > 0 || !self.is_finite() {
            self.console.log(&format!("step {}: values are not finite, so the previous checkpoint is kept", self.progress.step));
            return Ok(());
        }
        self.metrics.flush()?;
        self.progress.metrics = self.metrics.position();
        checkpoint::save(path, self.config(), self.method.as_ref(), &self.optimizer, &self.progress)
    }

    fn is_finite(&self) -> bool {
        self.method.parameters().norm().to_host()[0].is_finite()
    }

    /// Ends the training after a signal; the checkpoint is written.
    fn interrupt(self) -> Result<StageOutcome, Error> {
        self.console
            .log(&format!("interrupted at step {}: checkpoint written; run the same command again to continue", self.progress.step));
        Ok(StageOutcome::Interrupted)
    }

    /// Writes the export, the report, and a checkpoint that marks the run as finished.
    fn finish(mut self) -> Result<Summary, Error> {
        self.read_steps()?;
        self.console.end_bar();
        let (config, folder) = (self.config(), self.stage.folder);
        if self.progress.skipped_in_a_row > 0 || !self.is_finite() {
            return Err(Error::Training(format!(
                "the training ended with values that are not finite, so nothing is exported; the last good checkpoint is in {}; lower \
                 optim.lr or set optim.clip, and start again in another --out",
                folder.checkpoints().display()
            )));
        }
        let (vit, parameters) = self.method.backbone();
        let digest = Some(self.stage.images.train.digest());
        let info = backbone_info(config, vit, self.progress.optimizer_steps, digest, self.teacher_info.as_ref());
        backbone::save(&folder.backbone(), parameters, &info)?;
        self.progress.finished = true;
        let summary = Summary::new(config, folder, &self.progress, self.throughput.seconds());
        summary.write_report(config, folder, &self.progress)?;
        checkpoint::save(&folder.last(), config, self.method.as_ref(), &self.optimizer, &self.progress)?;
        self.console.log(&format!("finished: {}", folder.backbone().display()));
        Ok(summary)
    }
}

fn load_teacher(stage: &Stage<'_>) -> Result<Option<Loaded>, Error> {
    match &stage.teacher {
        Some(path) if stage.config.method.spec().needs_teacher() => backbone::load(path, &stage.config.teacher_overrides()).map(Some),
        _ => Ok(None),
    }
}
