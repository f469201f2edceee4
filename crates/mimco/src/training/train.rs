//! The training loop: batches in, updates, metrics and checkpoints out; interrupted anywhere, it goes on from its last checkpoint as
//! if nothing had happened.

use super::checkpoint::{self, Progress};
use super::console::Console;
use super::metrics::{MetricsWriter, last_figure};
use super::run_folder::RunFolder;
use super::schedule;
use super::watch::Watch;
use crate::Error;
use crate::methods::{Clock, Figures, Method};
use crate::settings::Config;
use mimco_data::loader::{Batch, Loader};
use mimco_engine::cpu::buffer::Buffer;
use mimco_engine::optim::{Optimizer, clear, clip_factor, gradient_norm};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Everything a training runs on.
pub struct Training<'a> {
    /// Settings.
    pub config: &'a Config,
    /// Where it writes.
    pub folder: &'a RunFolder,
    /// Its images.
    pub loader: &'a Loader,
    /// What is trained, and how.
    pub method: &'a mut dyn Method,
    /// The optimizer, at its beginning.
    pub optimizer: Optimizer,
    /// What is looked at while it trains.
    pub watch: &'a Watch,
    /// Its words.
    pub console: &'a Console,
    /// Set by a signal: write a checkpoint and stop.
    pub interrupted: &'a AtomicBool,
    /// Digests of settings, images and teacher.
    pub identity: String,
    /// Updates of the stage before this one, for the words "resumed at step N".
    pub steps_before: u64,
}

/// A training whose epochs are all done.
pub struct Trained {
    /// Where it stands.
    pub progress: Progress,
    /// The optimizer, for the last checkpoint.
    pub optimizer: Optimizer,
    /// Seconds of all sittings.
    pub seconds: f64,
}

impl Training<'_> {
    /// Updates an epoch.
    fn steps_per_epoch(&self) -> u64 {
        (self.loader.batches_per_epoch() / self.config.train.accumulate.max(1)).max(1) as u64
    }

    /// Updates of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * self.config.train.epochs as u64
    }

    /// Trains to the end; to a signal, which leaves nothing but a checkpoint.
    pub fn run(mut self) -> Result<Option<Trained>, Error> {
        let mut metrics;
        let mut progress;
        if self.folder.last().exists() {
            progress = checkpoint::restore(&self.folder.last(), self.method, &mut self.optimizer)?;
            if progress.identity != self.identity {
                return Err(Error::Setting(format!(
                    "{} was begun with other images, another teacher or other weights; give the same ones to resume, another --out, or --overwrite",
                    self.folder.path.display()
                )));
            }
            metrics = MetricsWriter::resume_at(&self.folder.path, &progress.metrics)?;
            self.console.say(&format!("resumed at step {}", self.steps_before + progress.step));
        } else {
            progress = Progress { identity: self.identity.clone(), ..Progress::default() };
            metrics = MetricsWriter::create(&self.folder.path)?;
        }
        let before = last_figure(&self.folder.path, "perf/seconds").unwrap_or(0.0);
        let total = self.total_steps();
        let epochs = self.config.train.epochs as u64;
        let mut gradients = self.method.parameters().zeros_like();
        self.watch.peak_flop_per_second(); // measured before the clock runs
        let mut speed = Speed::begin(before);
        self.console.begin(progress.step, total);

        while progress.epoch < epochs {
            let mut batches = self.loader.epoch(progress.epoch, progress.batch as usize);
            while progress.batch < self.steps_per_epoch() * self.config.train.accumulate as u64 {
                let clock = Clock { step: progress.step, draw: 0, total, epoch: progress.epoch, seed: self.config.seed };
                clear(&mut gradients);
                let mut figures = Figures::new();
                let share = 1.0 / self.config.train.accumulate as f32;
                for part in 0..self.config.train.accumulate as u64 {
                    let clock = Clock { draw: clock.step * self.config.train.accumulate as u64 + part, ..clock };
                    let waiting = Instant::now();
                    let batch: Batch = match batches.next() {
                        Some(batch) => batch?,
                        None => {
                            return Err(Error::Training("the loader ended before its epoch; run the same command again to resume".into()));
                        }
                    };
                    speed.waited(waiting, batch.indices.len());
                    progress.broken.extend(&batch.broken);
                    self.loader.check_broken(&progress.broken)?;
                    for (name, value) in self.method.step(&batch, clock, share, &mut gradients) {
                        *figures.entry(name).or_default() += value * share as f64;
                    }
                    progress.batch += 1;
                    self.loader.give_back(batch);
                }
                self.update(clock, &mut gradients, &mut figures, &mut progress)?;
                progress.step += 1;
                if progress.step.is_multiple_of(self.config.train.log_steps) || progress.step == total {
                    self.write_line(&mut progress, &mut metrics, &mut speed, total)?;
                }
                self.console.step(progress.step, &figures);
                let epoch_ends = progress.batch == self.steps_per_epoch() * self.config.train.accumulate as u64;
                let interrupted = self.interrupted.load(Ordering::Relaxed);
                if !epoch_ends && (interrupted || progress.step.is_multiple_of(self.config.train.checkpoint_steps)) {
                    self.checkpoint(&mut progress, &mut metrics)?;
                }
                if interrupted && !epoch_ends {
                    self.console.say(&format!("interrupted at step {}: checkpoint written, the same command resumes", progress.step));
                    return Ok(None);
                }
            }
            drop(batches);
            progress.epoch += 1;
            progress.batch = 0;
            self.end_of_epoch(&mut progress, &mut metrics, &mut speed, epochs)?;
            if self.interrupted.load(Ordering::Relaxed) && progress.epoch < epochs {
                self.console.say(&format!("interrupted at step {}: checkpoint written, the same command resumes", progress.step));
                return Ok(None);
            }
        }
        self.console.end();
        Ok(Some(Trained { progress, optimizer: self.optimizer, seconds: speed.seconds() }))
    }

    /// One update, or none where loss or gradient are not finite.
    fn update(&mut self, clock: Clock, gradients: &mut Buffer, figures: &mut Figures, progress: &mut Progress) -> Result<(), Error> {
        let optim = &self.config.optim;
        let norm = gradient_norm(gradients);
        let finite = norm.is_finite() && figures.get("train/loss").is_some_and(|loss| loss.is_finite());
        let rate = schedule::learning_rate(
            clock.step,
            clock.total,
            self.config.warmup_steps(clock.total),
            self.config.learning_rate(),
            self.config.min_learning_rate(),
        );
        if finite {
            progress.skipped_in_a_row = 0;
            self.optimizer.step(self.method.parameters_mut(), gradients, rate as f32, clip_factor(norm, optim.clip));
            self.method.updated(Clock { step: clock.step + 1, ..clock });
            progress.optimizer_steps = self.optimizer.steps();
            figures.insert("optim/grad_norm", norm as f64);
            for (name, value) in figures.iter() {
                let (sum, count) = progress.pending.entry(name.to_string()).or_default();
                *sum += value;
                *count += 1;
            }
        } else {
            progress.skipped += 1;
            progress.skipped_in_a_row += 1;
            self.method.skip();
            self.console.say(&format!("step {}: loss or gradient not finite, step skipped ({} so far)", clock.step + 1, progress.skipped));
            if progress.skipped_in_a_row >= self.config.train.max_bad_steps {
                return Err(Error::Training(format!(
                    "{} steps in a row had a loss or gradient that was not finite; the last good checkpoint is intact in {}; lower optim.lr \
                     or set optim.clip, and begin anew in another --out, with --init and that checkpoint, or with --overwrite",
                    progress.skipped_in_a_row,
                    self.folder.checkpoints().display()
                )));
            }
        }
        progress.pending.insert("optim/lr".into(), (rate, 1));
        Ok(())
    }

    /// Means since the last line, to the metrics files and the screen.
    fn write_line(&self, progress: &mut Progress, metrics: &mut MetricsWriter, speed: &mut Speed, total: u64) -> Result<(), Error> {
        let pending = std::mem::take(&mut progress.pending);
        let mut line: BTreeMap<String, f64> = pending.into_iter().map(|(name, (sum, count))| (name, sum / count.max(1) as f64)).collect();
        if progress.skipped > 0 {
            line.insert("train/skipped_steps".into(), progress.skipped as f64);
        }
        let (images_per_second, data_wait) = speed.take();
        line.insert("perf/img_per_s".into(), images_per_second);
        line.insert("perf/data_wait".into(), data_wait);
        line.insert("perf/mfu".into(), images_per_second * self.method.flop_per_image() / self.watch.peak_flop_per_second());
        // Here alone, since a checkpoint holds no clock.
        line.insert("perf/seconds".into(), speed.seconds());
        metrics.log(progress.step, progress.epoch, &line)?;
        self.console.line(progress.step, total, progress.epoch, self.config.train.epochs as u64, &line);
        Ok(())
    }

    fn end_of_epoch(&mut self, progress: &mut Progress, metrics: &mut MetricsWriter, speed: &mut Speed, epochs: u64) -> Result<(), Error> {
        self.console.report_broken(&self.loader.broken());
        let every = self.config.train.eval_epochs.max(1) as u64;
        if progress.epoch.is_multiple_of(every) || progress.epoch == epochs {
            let paused = Instant::now();
            let (vit, parameters) = self.method.backbone();
            let looked = self.watch.look(vit, parameters)?;
            speed.pause(paused);
            metrics.log(progress.step, progress.epoch - 1, &looked.figures)?;
            self.console.looked(progress.epoch, &looked);
            if let Some(&knn) = looked.figures.get("eval/knn_top1")
                && progress.best_knn.is_none_or(|best| knn > best)
            {
                progress.best_knn = Some(knn);
                self.save(&self.folder.best(), progress, metrics)?;
            }
        }
        self.checkpoint(progress, metrics)
    }

    fn checkpoint(&self, progress: &mut Progress, metrics: &mut MetricsWriter) -> Result<(), Error> {
        self.save(&self.folder.last(), progress, metrics)
    }

    fn save(&self, path: &std::path::Path, progress: &mut Progress, metrics: &mut MetricsWriter) -> Result<(), Error> {
        if progress.skipped_in_a_row > 0 || !gradient_norm(self.method.parameters().flat()).is_finite() {
            self.console.say(&format!("step {}: numbers are not finite, so the checkpoint before this one stays", progress.step));
            return Ok(());
        }
        metrics.flush()?;
        progress.metrics = metrics.position();
        checkpoint::save(path, self.config, &*self.method, &self.optimizer, progress)
    }
}

/// How fast it goes, and how long it waited for images.
struct Speed {
    before: f64,
    begun: Instant,
    since: Instant,
    waited: f64,
    images: usize,
}

impl Speed {
    fn begin(before: f64) -> Speed {
        Speed { before, begun: Instant::now(), since: Instant::now(), waited: 0.0, images: 0 }
    }

    fn waited(&mut self, from: Instant, images: usize) {
        self.waited += from.elapsed().as_secs_f64();
        self.images += images;
    }

    /// Time since `from` was not training.
    fn pause(&mut self, from: Instant) {
        self.since += from.elapsed();
    }

    /// Images a second and the share of waiting, since the last call.
    fn take(&mut self) -> (f64, f64) {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let result = (self.images as f64 / seconds, self.waited / seconds);
        (self.since, self.waited, self.images) = (Instant::now(), 0.0, 0);
        result
    }

    fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }
}
