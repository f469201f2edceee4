//! The run folder: the files of a training.

use super::metrics::{EVENTS, LINES as METRICS};
use crate::settings::Config;
use crate::{Error, files};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const ENVIRONMENT: &str = "environment.json";
const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const EXPORT: &str = "export";
const LOG: &str = "train.log";
const TEACHER: &str = "teacher";
const LISTING: &str = "images.index";
/// Suffixes of incomplete files; earlier versions wrote `.tmp`.
const PARTIAL: [&str; 2] = [".partial", ".tmp"];
/// Files that a run may have written. `--overwrite` removes these and nothing else. `config.toml`, which
/// marks the folder as a run, goes last, so that an interrupted removal can be repeated.
const OURS: [&str; 12] = [
    LISTING,
    "checkpoints/last.safetensors",
    "checkpoints/best.safetensors",
    "export/backbone.safetensors",
    "export/config.json",
    "export/README.md",
    EVENTS,
    METRICS,
    "report.html",
    "summary.json",
    ENVIRONMENT,
    CONFIG,
];

/// A run folder, locked against other runs.
pub struct RunFolder {
    /// Path of the folder.
    pub path: PathBuf,
    /// The locked `train.log`.
    log: File,
}

impl RunFolder {
    /// Checks whether a run of `config` can start or resume in a folder, or start anew with `overwrite`.
    /// Changes nothing.
    ///
    /// # Errors
    /// A folder with a run of other settings, or with files that are not a run's.
    pub fn check(path: &Path, config: &Config, overwrite: bool) -> Result<(), Error> {
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "is a file, not a folder; give --out another name"));
        }
        if is_run(path) {
            if overwrite {
                return Ok(());
            }
            let text = fs::read_to_string(path.join(CONFIG)).unwrap_or_default();
            let old = Config::from_toml(&text)
                .map_err(|e| Error::file(path.join(CONFIG), format!("cannot be read as settings ({e}); use --overwrite to start anew")))?;
            let differences = config.differences(&old);
            if let Some(first) = differences.first() {
                return Err(Error::Setting(format!(
                    "{} holds a run with other settings ({first}{}); give the same ones to resume, another --out, or --overwrite",
                    path.display(),
                    if differences.len() > 1 { format!(" and {} more", differences.len() - 1) } else { String::new() }
                )));
            }
        } else if !is_run(&path.join(TEACHER))
            && let Some(name) = names_in(path).find(|name| !is_ours(name))
        {
            return Err(Error::Setting(format!(
                "{} holds other files ({name}) and no run; give --out an empty or new folder",
                path.display()
            )));
        }
        Ok(())
    }

    /// Opens or creates a folder that passed [`RunFolder::check`], and locks it.
    ///
    /// # Errors
    /// A folder that cannot be created, or in which another process trains.
    pub fn open(path: &Path) -> Result<RunFolder, Error> {
        for path in [path.to_path_buf(), path.join(CHECKPOINTS), path.join(EXPORT)] {
            fs::create_dir_all(&path)
                .map_err(|e| Error::file(&path, format!("cannot be created: {e}; give --out a folder that you can write to")))?;
        }
        let log_path = path.join(LOG);
        let log = File::options().create(true).append(true).open(&log_path).map_err(|e| Error::file(&log_path, files::describe(&e)))?;
        lock(path, &log)?;
        Ok(RunFolder { path: path.to_path_buf(), log })
    }

    /// Removes a run's files from `path` and its `teacher/`, and nothing else.
    ///
    /// # Errors
    /// A folder in which another process trains, or a file that cannot be removed.
    pub fn clear(path: &Path) -> Result<(), Error> {
        let folders = [path.to_path_buf(), path.join(TEACHER)];
        let logs: Vec<(PathBuf, File)> =
            folders.iter().filter_map(|folder| Some((folder.join(LOG), File::open(folder.join(LOG)).ok()?))).collect();
        logs.iter().try_for_each(|(_, log)| lock(path, log))?;
        for folder in folders.iter().rev() {
            for name in OURS {
                remove(&folder.join(name))?;
                for suffix in PARTIAL {
                    remove(&folder.join(format!("{name}{suffix}")))?;
                }
            }
        }
        logs.iter().try_for_each(|(log, _)| remove(log))?;
        // Folders that hold other files stay.
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(folder.join(CHECKPOINTS));
            let _ = fs::remove_dir(folder.join(EXPORT));
        }
        let _ = fs::remove_dir(path.join(TEACHER));
        Ok(())
    }

    /// Returns `train.log`, open for appending.
    pub fn log(&self) -> &File {
        &self.log
    }

    /// Returns the path of `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Returns the path of `environment.json`.
    pub fn environment(&self) -> PathBuf {
        self.path.join(ENVIRONMENT)
    }

    /// Returns the path of `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Returns the path of the checkpoint to resume from.
    pub fn last(&self) -> PathBuf {
        self.checkpoints().join("last.safetensors")
    }

    /// Returns the path of the checkpoint with the best kNN accuracy.
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best.safetensors")
    }

    /// Returns the path of `export/`.
    pub fn export(&self) -> PathBuf {
        self.path.join(EXPORT)
    }

    /// Returns the path of the exported backbone.
    pub fn backbone(&self) -> PathBuf {
        self.export().join("backbone.safetensors")
    }

    /// Returns the path of the listing of many training images, for a run in `path`.
    pub fn listing(path: &Path) -> PathBuf {
        path.join(LISTING)
    }

    /// Returns the path of `report.html`.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Returns the path of `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }
}

/// Returns whether a folder contains the settings of a run.
fn is_run(path: &Path) -> bool {
    fs::read_to_string(path.join(CONFIG)).is_ok_and(|text| text.lines().any(|line| line.starts_with("method = ")))
}

/// Returns whether a run writes a file of this name.
fn is_ours(name: &str) -> bool {
    let name = PARTIAL.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    [CHECKPOINTS, EXPORT, LOG, TEACHER].contains(&name) || OURS.contains(&name)
}

fn names_in(path: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned())
}

fn lock(path: &Path, log: &File) -> Result<(), Error> {
    match log.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(path, "another run trains in this folder; wait for it, or give another --out")),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound && e.kind() != ErrorKind::NotADirectory => {
            Err(Error::file(path, format!("cannot be removed: {e}; remove it by hand, or give another --out")))
        }
        _ => Ok(()),
    }
}
