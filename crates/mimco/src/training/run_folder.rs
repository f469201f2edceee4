//! The run folder: what a training leaves, and what it finds when the same command runs again.

use crate::Error;
use crate::settings::Config;
use std::fs;
use std::path::{Path, PathBuf};

/// All that a run may have written; `--overwrite` removes these and nothing else.
const OURS: [&str; 8] =
    ["config.toml", "environment.json", "metrics.jsonl", "train.log", "checkpoints", "export", "report.html", "teacher"];
const EVENTS: &str = "events.out.tfevents.";

/// A run folder and its files.
#[derive(Clone)]
pub struct RunFolder {
    /// The folder itself.
    pub path: PathBuf,
}

/// What a folder holds when a run begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of a run.
    Nothing,
    /// A run of these settings, finished or not.
    Run,
}

impl RunFolder {
    /// Opens or makes the folder for a run of `config`.
    ///
    /// # Errors
    /// Where it holds a run of other settings, or other people's files.
    pub fn open(path: &Path, config: &Config, overwrite: bool) -> Result<(RunFolder, Found), Error> {
        let folder = RunFolder { path: path.to_path_buf() };
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "is a file, not a folder; give --out another name"));
        }
        if overwrite {
            folder.clear()?;
        }
        if let Ok(text) = fs::read_to_string(folder.config()) {
            let old = Config::from_toml(&text).map_err(|e| {
                Error::file(folder.config(), format!("cannot be read as settings ({e}); use --overwrite to start anew"))
            })?;
            let differences = config.differences(&old);
            if let Some(first) = differences.first() {
                return Err(Error::Setting(format!(
                    "{} holds a run with other settings ({first}{}); give the same ones to resume, another --out, or --overwrite",
                    path.display(),
                    if differences.len() > 1 { format!(" and {} more", differences.len() - 1) } else { String::new() }
                )));
            }
            return Ok((folder, Found::Run));
        }
        let others = fs::read_dir(path).map(|entries| {
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| name != "teacher" && !is_ours(name))
        });
        if let Ok(Some(name)) = others {
            return Err(Error::Setting(format!(
                "{} holds other files ({name}) and no run; give --out an empty or new folder",
                path.display()
            )));
        }
        for path in [path.to_path_buf(), folder.checkpoints(), folder.export()] {
            fs::create_dir_all(&path).map_err(|e| Error::file(&path, format!("cannot be made: {e}; give --out a folder you may write")))?;
        }
        Ok((folder, Found::Nothing))
    }

    fn clear(&self) -> Result<(), Error> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Ok(()) };
        for entry in entries.flatten().filter(|e| is_ours(&e.file_name().to_string_lossy())) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| Error::file(&path, format!("cannot be removed: {e}; remove it by hand or give another --out")))?;
        }
        Ok(())
    }

    /// `config.toml`
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `checkpoints/`
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
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
        self.path.join("export")
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
    OURS.contains(&name) || name.starts_with(EVENTS)
}
