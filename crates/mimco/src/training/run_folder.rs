//! The run folder: what a training leaves, and what it finds when the same command runs again.

use crate::settings::Config;
use crate::{Error, files};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const ENVIRONMENT: &str = "environment.json";
const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const EXPORT: &str = "export";
const LOG: &str = "train.log";
const TEACHER: &str = "teacher";
/// All that a run may have written; `--overwrite` removes these and nothing else.
const OURS: [&str; 9] = [CONFIG, ENVIRONMENT, "metrics.jsonl", LOG, CHECKPOINTS, EXPORT, "report.html", "summary.json", TEACHER];
const EVENTS: &str = "events.out.tfevents.";

/// A run folder and its files, held against other runs while this lives.
pub struct RunFolder {
    /// The folder itself.
    pub path: PathBuf,
    /// `train.log`, locked.
    log: File,
}

impl RunFolder {
    /// Whether a run of `config` can begin or go on in a folder; nothing is made.
    ///
    /// # Errors
    /// Where it holds a run of other settings or other people's files.
    pub fn check(path: &Path, config: &Config) -> Result<(), Error> {
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "is a file, not a folder; give --out another name"));
        }
        if let Ok(text) = fs::read_to_string(path.join(CONFIG)) {
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
        } else if let Some(name) = names_in(path).find(|name| !is_ours(name)) {
            return Err(Error::Setting(format!(
                "{} holds other files ({name}) and no run; give --out an empty or new folder",
                path.display()
            )));
        }
        Ok(())
    }

    /// Opens or makes the folder for a run of `config`.
    ///
    /// # Errors
    /// As [`RunFolder::check`], or where it cannot be made, or another process trains in it.
    pub fn open(path: &Path, config: &Config) -> Result<RunFolder, Error> {
        RunFolder::check(path, config)?;
        for path in [path.to_path_buf(), path.join(CHECKPOINTS), path.join(EXPORT)] {
            fs::create_dir_all(&path).map_err(|e| Error::file(&path, format!("cannot be made: {e}; give --out a folder you may write")))?;
        }
        let log_path = path.join(LOG);
        let log = File::options().create(true).append(true).open(&log_path).map_err(|e| Error::file(&log_path, files::describe(&e)))?;
        if let Err(TryLockError::WouldBlock) = log.try_lock() {
            return Err(Error::file(path, "another run trains in this folder; wait for it, or give another --out"));
        }
        Ok(RunFolder { path: path.to_path_buf(), log })
    }

    /// Removes what a run has left in `path`, and nothing else.
    ///
    /// # Errors
    /// Where no run has been there, or something cannot be removed.
    pub fn clear(path: &Path) -> Result<(), Error> {
        let is_run = |path: &Path| fs::read_to_string(path.join(CONFIG)).is_ok_and(|text| text.starts_with("method = "));
        let ours: Vec<PathBuf> = names_in(path).filter(|name| is_ours(name)).map(|name| path.join(name)).collect();
        if ours.is_empty() {
            return Ok(());
        }
        if !is_run(path) && !is_run(&path.join(TEACHER)) {
            return Err(Error::Setting(format!(
                "--overwrite: {} holds {}, but no run that could be overwritten; give another --out",
                path.display(),
                ours[0].display()
            )));
        }
        for path in ours {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| Error::file(&path, format!("cannot be removed: {e}; remove it by hand or give another --out")))?;
        }
        Ok(())
    }

    /// `train.log`, to append to.
    pub fn log(&self) -> &File {
        &self.log
    }

    /// `config.toml`
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// `environment.json`
    pub fn environment(&self) -> PathBuf {
        self.path.join(ENVIRONMENT)
    }

    /// `checkpoints/`
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The checkpoint to resume from.
    pub fn last(&self) -> PathBuf {
        self.checkpoints().join("last.safetensors")
    }

    /// The checkpoint with the best kNN accuracy.
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best.safetensors")
    }

    /// `export/`
    pub fn export(&self) -> PathBuf {
        self.path.join(EXPORT)
    }

    /// The exported backbone.
    pub fn backbone(&self) -> PathBuf {
        self.export().join("backbone.safetensors")
    }

    /// `report.html`
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `metrics.jsonl`
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }
}

fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    OURS.contains(&name) || name.starts_with(EVENTS)
}

fn names_in(path: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned())
}
