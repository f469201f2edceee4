//! `shards.json`: the contents of a folder of shards and the progress of packing. A shard is
//! finished only if it is listed here.

use crate::atomic_file;
use crate::dataset::{CLASS_NAMES, Dataset};
use crate::error::DataError;
use crate::pack::checksums::SUMS;
use crate::pack::options::{Outcome, PackOptions, PackReport};
use crate::pack::shard::{self, FinishedShard, Shard, write_error};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

const MANIFEST: &str = "shards.json";
const BROKEN: &str = "broken.txt";

/// Version of the manifest's format.
const VERSION: u32 = 1;

/// The contents of `shards.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub finished: bool,
    source: Source,
    settings: PackOptions,
    /// Number of images of the source that are in finished shards or broken.
    pub next: usize,
    pub shards: Vec<FinishedShard>,
    broken: Vec<Broken>,
}

/// The dataset that is packed.
#[derive(Serialize, Deserialize)]
struct Source {
    /// Path or URL at the time of packing; the dataset may be moved.
    #[serde(rename = "place")]
    location: String,
    images: usize,
    /// Digest of names and labels, in hexadecimal.
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct Broken {
    file: String,
    why: String,
}

impl Manifest {
    /// Opens the manifest of a folder that is empty or was packed into before.
    ///
    /// # Errors
    /// Fails if the folder contains other files or another pack, or if its shards have changed.
    pub fn open(out: &Path, dataset: &Dataset, options: &PackOptions) -> Result<Manifest, DataError> {
        let source = Source { location: dataset.location(), images: dataset.len(), digest: format!("{:016x}", dataset.digest()) };
        let text = match fs::read_to_string(out.join(MANIFEST)) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Manifest::begin(out, source, options),
            Err(e) => return Err(DataError::path(out.join(MANIFEST), format!("cannot be read: {e}"))),
        };
        let damaged = |what: String| DataError::path(out.join(MANIFEST), format!("{what}; give another --out, or empty the folder"));
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| damaged(format!("is not a complete list of shards ({e})")))?;
        if manifest.version != VERSION {
            return Err(damaged(format!("has version {}, which this program does not support", manifest.version)));
        }
        manifest.refuse_others(out, &source, options)?;
        for (number, entry) in manifest.shards.iter().enumerate() {
            let path = out.join(shard::name(number));
            if entry.file != shard::name(number) || fs::metadata(&path).map(|data| data.len()).ok() != Some(entry.bytes) {
                return Err(DataError::path(path, format!("is missing or differs from {MANIFEST}; empty the folder and pack again")));
            }
        }
        if manifest.next > source.images {
            return Err(damaged("lists more images than the dataset has".into()));
        }
        Ok(manifest)
    }

    /// Starts the manifest of an empty folder.
    fn begin(out: &Path, source: Source, options: &PackOptions) -> Result<Manifest, DataError> {
        let entries = fs::read_dir(out).map_err(|e| DataError::path(out, format!("cannot be read: {e}")))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Packing that was killed before its first shard leaves partial files.
        if let Some(name) = names.filter(|name| !name.ends_with(".partial") && !name.starts_with('.')).min() {
            let what = format!("contains other files ({name}) and no shards; give an empty or new folder as --out");
            return Err(DataError::Misuse { path: out.to_path_buf(), what });
        }
        let manifest =
            Manifest { version: VERSION, finished: false, source, settings: *options, next: 0, shards: Vec::new(), broken: Vec::new() };
        manifest.save(out)?;
        Ok(manifest)
    }

    /// Fails unless the pack is of this source and has these settings.
    fn refuse_others(&self, out: &Path, source: &Source, options: &PackOptions) -> Result<(), DataError> {
        let misuse = |what: String| Err(DataError::Misuse { path: out.to_path_buf(), what });
        if (&self.source.digest, self.source.images) != (&source.digest, source.images) {
            let Source { location, images, .. } = &self.source;
            return misuse(if *location == source.location {
                format!("contains shards of {location} with other names or labels ({images} images); give another --out")
            } else {
                format!("contains shards of other images ({images} of {location}); give another --out")
            });
        }
        let (old, new) = (&self.settings, options);
        let differences: Vec<String> = [
            ("size", old.size.to_string(), new.size.to_string()),
            ("format", format!("{:?}", old.format).to_lowercase(), format!("{:?}", new.format).to_lowercase()),
            ("quality", old.quality.to_string(), new.quality.to_string()),
            ("bytes of a shard", old.shard_bytes.to_string(), new.shard_bytes.to_string()),
        ]
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(what, old, new)| format!("{what} is {new}, was {old}"))
        .collect();
        if differences.is_empty() {
            return Ok(());
        }
        misuse(format!("contains shards with other settings ({}); give the same settings, or another --out", differences.join(", ")))
    }

    /// Finishes a shard and records the processed images. `shard` is `None` if all of them are
    /// broken.
    ///
    /// # Errors
    /// Fails if a file cannot be written, for example on a full disk.
    pub fn close(&mut self, out: &Path, shard: Option<Shard>, next: usize, broken: &mut Vec<(String, String)>) -> Result<(), DataError> {
        if let Some(shard) = shard {
            self.shards.push(shard.finish()?);
        }
        self.broken.extend(broken.drain(..).map(|(file, why)| Broken { file, why }));
        self.next = next;
        self.save(out)
    }

    /// Writes the files that accompany a finished pack.
    ///
    /// # Errors
    /// Fails if a file cannot be written, for example on a full disk.
    pub fn finish(&mut self, out: &Path, classes: &[String]) -> Result<(), DataError> {
        let lines = |lines: Vec<String>| lines.concat().into_bytes();
        write_file(out, SUMS, &lines(self.shards.iter().map(|s| format!("{}  {}\n", s.sha256, s.file)).collect()))?;
        if !classes.is_empty() {
            write_file(out, CLASS_NAMES, &json(&out.join(CLASS_NAMES), &classes)?)?;
        }
        if !self.broken.is_empty() {
            write_file(out, BROKEN, &lines(self.broken.iter().map(|b| format!("{}: {}\n", b.file, b.why)).collect()))?;
        }
        self.finished = true;
        self.save(out)
    }

    fn save(&self, out: &Path) -> Result<(), DataError> {
        write_file(out, MANIFEST, &json(&out.join(MANIFEST), self)?)
    }

    /// Returns the report of a call.
    pub fn report(&self, outcome: Outcome, resumed: usize) -> PackReport {
        PackReport {
            outcome,
            images: self.shards.iter().map(|s| s.images).sum(),
            shrunk: self.shards.iter().map(|s| s.shrunk).sum(),
            broken: self.broken.iter().map(|b| (b.file.clone(), b.why.clone())).collect(),
            shards: self.shards.len(),
            bytes: self.shards.iter().map(|s| s.bytes).sum(),
            resumed,
        }
    }
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DataError> {
    let path = folder.join(name);
    atomic_file::write(&path, bytes).map_err(|e| write_error(&path, &e))
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, DataError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| DataError::path(path, e))?;
    Ok((text + "\n").into_bytes())
}

/// Locks a folder against packing by other processes while the returned file is open. Returns
/// `None` on systems that cannot lock folders.
///
/// # Errors
/// Fails if another process has locked the folder.
pub(crate) fn lock(out: &Path) -> Result<Option<File>, DataError> {
    let Ok(folder) = File::open(out) else { return Ok(None) };
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(DataError::path(out, "another process is packing into this folder; wait for it, or give another --out"))
        }
        _ => Ok(Some(folder)),
    }
}
