//! The run folder: what a training leaves, and what it finds when the same command runs again.

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
const INDEX: &str = "images.index";
/// The files that a run may have written. `--overwrite` removes these and nothing else, what tells a run apart last, so that an interrupted
/// removal can be taken up again.
const OURS: [&str; 12] = [
    INDEX,
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

/// A run folder and its files, held against other runs while this lives.
pub struct RunFolder {
    /// The folder itself.
    pub path: PathBuf,
    /// `train.log`, locked.
    log: File,
}

impl RunFolder {
    /// Whether a run of `config` can begin, go on or, with `overwrite`, begin anew in a folder; nothing is made.
    ///
    /// # Errors
    /// Where it holds a run of other settings or other people's files.
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

    /// Opens or makes a folder that [`RunFolder::check`] found fit, and keeps other runs out.
    ///
    /// # Errors
    /// Where it cannot be made, or another process trains in it.
    pub fn open(path: &Path) -> Result<RunFolder, Error> {
        for path in [path.to_path_buf(), path.join(CHECKPOINTS), path.join(EXPORT)] {
            fs::create_dir_all(&path).map_err(|e| Error::file(&path, format!("cannot be made: {e}; give --out a folder you may write")))?;
        }
        let log_path = path.join(LOG);
        let log = File::options().create(true).append(true).open(&log_path).map_err(|e| Error::file(&log_path, files::describe(&e)))?;
        lock(path, &log)?;
        Ok(RunFolder { path: path.to_path_buf(), log })
    }

    /// Removes what a run has left in `path` and its `teacher/`, and nothing else.
    ///
    /// # Errors
    /// Where another process trains there, or something cannot be removed.
    pub fn clear(path: &Path) -> Result<(), Error> {
        let folders = [path.to_path_buf(), path.join(TEACHER)];
        let logs: Vec<(PathBuf, File)> =
            folders.iter().filter_map(|folder| Some((folder.join(LOG), File::open(folder.join(LOG)).ok()?))).collect();
        logs.iter().try_for_each(|(_, log)| lock(path, log))?;
        for folder in folders.iter().rev() {
            for name in OURS {
                remove(&folder.join(name))?;
                remove(&folder.join(format!("{name}.tmp")))?;
            }
        }
        logs.iter().try_for_each(|(log, _)| remove(log))?;
        // What is left in these is somebody else's, and stays with its folder.
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(folder.join(CHECKPOINTS));
            let _ = fs::remove_dir(folder.join(EXPORT));
        }
        let _ = fs::remove_dir(path.join(TEACHER));
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

    /// Where the training images lie, if they are many; of a run in `path`.
    pub fn index(path: &Path) -> PathBuf {
        path.join(INDEX)
    }

    /// `report.html`
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `metrics.jsonl`
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }
}

/// Whether a run's settings lie there.
fn is_run(path: &Path) -> bool {
    fs::read_to_string(path.join(CONFIG)).is_ok_and(|text| text.starts_with("method = "))
}

/// Whether a run puts something of this name into its folder.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
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
            Err(Error::file(path, format!("cannot be removed: {e}; remove it by hand or give another --out")))
        }
        _ => Ok(()),
    }
}
