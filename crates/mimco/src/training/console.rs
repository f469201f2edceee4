//! Progress of a training: a bar on a terminal, plain lines elsewhere, and every line in `train.log`.

use super::monitor::Evaluation;
use super::run_folder::RunFolder;
use crate::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

/// Screen and log of a run.
pub(super) struct Console {
    bar: ProgressBar,
    file: Mutex<File>,
    broken: Mutex<BTreeSet<String>>,
}

impl Console {
    /// Appends to the run's `train.log`; draws a bar if standard error is a terminal.
    ///
    /// # Errors
    /// A log that cannot be opened.
    pub fn open(folder: &RunFolder) -> Result<Console, Error> {
        let file = folder.log().try_clone().map_err(|e| Error::file(&folder.path, crate::files::describe(&e)))?;
        let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} left {eta} {msg}") {
            bar.set_style(style);
        }
        Ok(Console { bar, file: Mutex::new(file), broken: Mutex::default() })
    }

    /// Writes a line to the screen and to `train.log`.
    pub fn log(&self, line: &str) {
        self.write_to_file(line);
        self.bar.suspend(|| tracing::info!("{line}"));
    }

    /// Writes a line to `train.log`. A failure is ignored: a full disk must not end a training for its log.
    fn write_to_file(&self, line: &str) {
        if let Ok(mut file) = self.file.lock() {
            let _ = writeln!(file, "{line}");
        }
    }

    /// Starts the bar at `step` of `total`.
    pub fn start_bar(&self, step: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(step);
        self.bar.reset_eta();
    }

    /// Moves the bar to `step`.
    pub fn move_bar(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Shows the loss next to the bar.
    pub fn show_loss(&self, loss: Option<&f64>) {
        if let Some(loss) = loss {
            self.bar.set_message(format!("loss {loss:.3}"));
        }
    }

    /// Writes a line of metrics: to `train.log`, and to the screen where there is no bar.
    pub fn metrics(&self, step: u64, total: u64, epoch: u64, epochs: u64, line: &BTreeMap<String, f64>) {
        let get = |name: &str| line.get(name).copied().unwrap_or(f64::NAN);
        let wait = get("perf/data_wait") * 100.0;
        let text = format!(
            "epoch {}/{epochs} step {step}/{total} loss {:.4} lr {:.2e} grad {:.2} {:.0} img/s data wait {wait:.0} %{}",
            (epoch + 1).min(epochs),
            get("train/loss"),
            get("optim/lr"),
            get("optim/grad_norm"),
            get("perf/img_per_s"),
            if wait > 10.0 { " (loading is too slow: raise data.workers, or shrink the images once with `mimco pack`)" } else { "" }
        );
        self.write_to_file(&text);
        if self.bar.is_hidden() {
            tracing::info!("{text}");
        }
    }

    /// Writes the result of an evaluation.
    pub fn evaluation(&self, epoch: u64, evaluation: &Evaluation) {
        let figures: Vec<String> = evaluation.metrics.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        self.log(&format!("after epoch {epoch}: {}", figures.join(", ")));
        if let Some(warning) = &evaluation.collapse_warning {
            self.log(&format!("warning: {warning}"));
        }
    }

    /// Names each unreadable image once.
    pub fn report_broken(&self, all: &[(String, String)]) {
        let Ok(mut reported) = self.broken.lock() else { return };
        let new: Vec<_> = all.iter().filter(|(name, _)| reported.insert(name.clone())).collect();
        if !new.is_empty() {
            for (name, reason) in &new {
                self.write_to_file(&format!("skipped {name}: {reason}"));
            }
            let total = reported.len();
            self.bar.suspend(|| tracing::warn!("{total} images cannot be read and were replaced by others; train.log names them"));
        }
    }

    /// Removes the bar.
    pub fn end_bar(&self) {
        self.bar.finish_and_clear();
    }
}
