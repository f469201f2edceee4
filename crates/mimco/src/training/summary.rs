//! A finished stage in numbers, and its report.

use super::checkpoint::Progress;
use super::run_folder::RunFolder;
use crate::Error;
use crate::report::{RunReport, write_run};
use crate::settings::Config;
use serde::Serialize;
use std::path::PathBuf;

/// A finished stage in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the method.
    pub method: String,
    /// The exported backbone.
    pub backbone: PathBuf,
    /// Epochs of the stage.
    pub epochs: usize,
    /// Updates of the stage.
    pub steps: u64,
    /// Seconds of the stage, over all resumed runs.
    pub seconds: f64,
    /// Best kNN accuracy during training, in percent.
    pub best_knn_top1: Option<f64>,
}

impl Summary {
    /// Summarizes a stage after `seconds` of training.
    pub(super) fn new(config: &Config, folder: &RunFolder, progress: &Progress, seconds: f64) -> Summary {
        Summary {
            method: config.method.spec().name().to_string(),
            backbone: folder.backbone(),
            epochs: config.train.epochs,
            steps: progress.step,
            seconds,
            best_knn_top1: progress.best_knn,
        }
    }

    /// Writes `report.html`: facts, curves, settings, and what went wrong.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write_report(&self, config: &Config, folder: &RunFolder, progress: &Progress) -> Result<(), Error> {
        let mut facts = vec![
            ("backbone".to_string(), config.vit().name()),
            ("epochs".to_string(), self.epochs.to_string()),
            ("updates".to_string(), self.steps.to_string()),
            ("minutes".to_string(), format!("{:.1}", self.seconds / 60.0)),
            ("seed".to_string(), config.seed.to_string()),
        ];
        facts.extend(self.best_knn_top1.map(|knn| ("best kNN accuracy during training".to_string(), format!("{knn:.1} %"))));
        let mut notes = Vec::new();
        if progress.skipped > 0 {
            notes.push(format!("{} updates were skipped because loss or gradient were not finite.", progress.skipped));
        }
        if !progress.broken.is_empty() {
            notes.push(format!("{} images could not be read and were replaced by others; train.log names them.", progress.broken.len()));
        }
        let title = format!("{}: a run of mimco", self.method);
        let report = RunReport { title: &title, facts: &facts, metrics: &folder.metrics(), config: &config.to_toml(), notes: &notes };
        write_run(&folder.report(), &report)
    }
}
