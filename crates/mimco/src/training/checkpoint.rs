//! Checkpoints: everything that a run needs to continue with the same bits, in one safetensors file that
//! is written completely or not at all.

use super::info::backbone_info;
use super::metrics::Position;
use crate::Error;
use crate::interop::info::KEY as INFO_KEY;
use crate::interop::read::weights::Weights;
use crate::interop::write::safetensors;
use crate::methods::Method;
use crate::settings::Config;
use mimco_engine::optim::Optimizer;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const KEY: &str = "mimco_checkpoint";

/// Position of a run, next to its arrays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Digests of settings, images, teacher and initial weights. Another identity is another run.
    pub identity: String,
    /// Updates done or skipped.
    pub step: u64,
    /// Updates done.
    pub optimizer_steps: u64,
    /// Current epoch, from 0.
    pub epoch: u64,
    /// Batches of the epoch already used.
    pub batch: u64,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// Number of consecutive skipped steps up to this one.
    pub skipped_in_a_row: u64,
    /// Sums and counts of figures since the last line of metrics.
    pub pending: BTreeMap<String, (f64, u64)>,
    /// Samples that could not be read.
    pub broken: BTreeSet<u32>,
    /// Best kNN accuracy so far, in percent.
    pub best_knn: Option<f64>,
    /// Position in the metrics files.
    pub metrics: Position,
    /// Whether the run is finished and its export written.
    pub finished: bool,
}

impl Progress {
    /// Adds the metrics of an update to the sums since the last line of metrics.
    pub(super) fn add_metrics(&mut self, metrics: &BTreeMap<&'static str, f64>) {
        for (name, value) in metrics {
            let (sum, count) = self.pending.entry(name.to_string()).or_default();
            *sum += value;
            *count += 1;
        }
    }

    /// Returns the means of the metrics since the last call.
    pub(super) fn take_means(&mut self) -> BTreeMap<String, f64> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().map(|(name, (sum, count))| (name, sum / count.max(1) as f64)).collect()
    }
}

/// Writes parameters, optimizer, the method's state, `progress` and the description of the backbone, so
/// that other verbs can read the checkpoint too.
///
/// # Errors
/// A file that cannot be written; the previous checkpoint remains.
pub fn save(path: &Path, config: &Config, method: &dyn Method, optimizer: &Optimizer, progress: &Progress) -> Result<(), Error> {
    let parameters = method.parameters();
    let mut tensors: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
    let flats: Vec<(&str, Cow<'_, [f32]>)> =
        std::iter::once(("parameter", parameters.flat_to_host())).chain(optimizer.moments_to_host()).collect();
    for (kind, flat) in &flats {
        for entry in parameters.entries() {
            tensors.push((format!("{kind}.{}", entry.name), entry.shape.clone(), &flat[entry.range.clone()]));
        }
    }
    let state = method.state();
    tensors.extend(state.iter().map(|a| (format!("state.{}", a.name), a.shape.clone(), &a.data[..])));
    let json = serde_json::to_string(progress).map_err(|e| Error::file(path, e))?;
    let info = backbone_info(config, method.backbone().0, progress.optimizer_steps, None, None).to_json(path)?;
    safetensors::write_f32(path, &tensors, &BTreeMap::from([(KEY.to_string(), json), (INFO_KEY.to_string(), info)]))
}

/// Reads the position of a checkpoint, without its arrays.
///
/// # Errors
/// A file that cannot be read or is not a checkpoint.
pub fn progress(path: &Path) -> Result<Progress, Error> {
    parse(path, &Weights::open(path).map_err(|e| unreadable(path, e))?.texts)
}

fn unreadable(path: &Path, error: Error) -> Error {
    let what = match error {
        Error::File { what, .. } => what,
        other => other.to_string(),
    };
    Error::file(path, format!("the run's checkpoint cannot be read: {what}; restore an intact copy, or use --overwrite to start anew"))
}

fn parse(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Progress, Error> {
    let json = metadata.get(KEY).ok_or_else(|| {
        Error::file(path, "is not a checkpoint of a run; use --overwrite to start anew, or --init to take weights from it")
    })?;
    serde_json::from_str(json).map_err(|e| Error::file(path, format!("its position cannot be read ({e}); use --overwrite to start anew")))
}

/// Restores the method and the optimizer from a checkpoint, and returns its position.
///
/// # Errors
/// A file that cannot be read, or that lacks an array or has one of another size.
pub fn restore(path: &Path, method: &mut dyn Method, optimizer: &mut Optimizer) -> Result<Progress, Error> {
    let file = Weights::open(path).map_err(|e| unreadable(path, e))?;
    let progress = parse(path, &file.texts)?;
    let take = |name: &str, elements: usize| -> Result<Vec<f32>, Error> {
        let tensor = match file.tensors.contains_key(name) {
            true => file.read(name).map_err(|e| unreadable(path, e))?,
            false if elements == 0 => Vec::new(), // an optional array
            false => return Err(Error::file(path, format!("lacks `{name}`; use --overwrite to start anew"))),
        };
        if elements != 0 && tensor.len() != elements {
            return Err(Error::file(path, format!("`{name}` has another size; use --overwrite to start anew")));
        }
        Ok(tensor)
    };
    let entries = method.parameters().entries().to_vec();
    let moments: Vec<&str> = optimizer.moment_names().collect();
    for entry in &entries {
        let data = take(&format!("parameter.{}", entry.name), entry.range.len())?;
        method.parameters_mut().update_flat_on_host(|flat| flat[entry.range.clone()].copy_from_slice(&data));
        for moment in &moments {
            let data = take(&format!("{moment}.{}", entry.name), entry.range.len())?;
            optimizer.update_moment_on_host(moment, |flat| flat[entry.range.clone()].copy_from_slice(&data));
        }
    }
    method.restore(&mut |name, elements| take(&format!("state.{name}"), elements))?;
    optimizer.set_steps(progress.optimizer_steps);
    Ok(progress)
}
