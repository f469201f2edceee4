//! What a training says: a bar on a terminal, plain lines elsewhere, all of it in `train.log`.

use super::run_folder::RunFolder;
use super::watch::Looked;
use crate::Error;
use crate::methods::Figures;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

/// The words of a run.
pub struct Console {
    bar: ProgressBar,
    file: Mutex<File>,
    broken: Mutex<BTreeSet<String>>,
}

impl Console {
    /// Appends to the run's `train.log`; draws a bar where standard error is a terminal.
    ///
    /// # Errors
    /// Where the log cannot be opened a second time.
    pub fn open(folder: &RunFolder) -> Result<Console, Error> {
        let file = folder.log().try_clone().map_err(|e| Error::file(&folder.path, crate::files::describe(&e)))?;
        let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} left {eta} {msg}") {
            bar.set_style(style);
        }
        Ok(Console { bar, file: Mutex::new(file), broken: Mutex::default() })
    }

    /// One line for the screen and the log.
    pub fn say(&self, line: &str) {
        self.log(line);
        self.bar.suspend(|| tracing::info!("{line}"));
    }

    /// One line for the log alone; a full disk must not end a training for its log's sake.
    fn log(&self, line: &str) {
        if let Ok(mut file) = self.file.lock() {
            let _ = writeln!(file, "{line}");
        }
    }

    /// The bar begins at `step` of `total`.
    pub fn begin(&self, step: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(step);
        self.bar.reset_eta();
    }

    /// The bar moves on.
    pub fn step(&self, step: u64, figures: &Figures) {
        self.bar.set_position(step);
        if let Some(loss) = figures.get("train/loss") {
            self.bar.set_message(format!("loss {loss:.3}"));
        }
    }

    /// A line of metrics: plain where there is no bar.
    pub fn line(&self, step: u64, total: u64, epoch: u64, epochs: u64, line: &BTreeMap<String, f64>) {
        let get = |name: &str| line.get(name).copied().unwrap_or(f64::NAN);
        let wait = get("perf/data_wait") * 100.0;
        let text = format!(
            "epoch {}/{epochs} step {step}/{total} loss {:.4} lr {:.2e} grad {:.2} {:.0} img/s data wait {wait:.0} %{}",
            (epoch + 1).min(epochs),
            get("train/loss"),
            get("optim/lr"),
            get("optim/grad_norm"),
            get("perf/img_per_s"),
            if wait > 10.0 { " (images come too slowly: raise data.workers, or shrink the images once)" } else { "" }
        );
        self.log(&text);
        if self.bar.is_hidden() {
            tracing::info!("{text}");
        }
    }

    /// What was seen of the features.
    pub fn looked(&self, epoch: u64, looked: &Looked) {
        let figures: Vec<String> = looked.figures.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        self.say(&format!("after epoch {epoch}: {}", figures.join(", ")));
        if let Some(warning) = &looked.warning {
            self.say(&format!("warning: {warning}"));
        }
    }

    /// Names each broken image once.
    pub fn report_broken(&self, all: &[(String, String)]) {
        let Ok(mut told) = self.broken.lock() else { return };
        let new: Vec<_> = all.iter().filter(|(name, _)| told.insert(name.clone())).collect();
        if !new.is_empty() {
            for (name, reason) in &new {
                self.log(&format!("skipped {name}: {reason}"));
            }
            let total = told.len();
            self.bar.suspend(|| tracing::warn!("{total} images cannot be read and were replaced by others; train.log names them"));
        }
    }

    /// The bar goes.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
