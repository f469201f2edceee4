//! `shards.json`, what a folder of shards holds and how far it has come; it alone says which shards are whole.

use super::shard::{self, Shard, unwritten};
use super::{Outcome, PackOptions, PackReport};
use crate::sums::SUMS;
use crate::{DataError, Dataset, shards};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

const LEDGER: &str = "shards.json";
const BROKEN: &str = "broken.txt";
/// Of this file's own form.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) struct Ledger {
    version: u32,
    pub finished: bool,
    source: Source,
    settings: PackOptions,
    /// Images of the source that whole shards hold, or that are broken.
    pub next: usize,
    pub shards: Vec<Entry>,
    broken: Vec<Broken>,
}

/// What is packed.
#[derive(Serialize, Deserialize)]
struct Source {
    /// Where it lay; it may move.
    place: String,
    images: usize,
    /// Of names and labels, in hexadecimal.
    digest: String,
}

/// A whole shard.
#[derive(Serialize, Deserialize)]
pub(crate) struct Entry {
    pub file: String,
    pub bytes: u64,
    pub images: usize,
    pub shrunk: usize,
    pub sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Broken {
    file: String,
    why: String,
}

impl Ledger {
    /// That of a folder which is empty or was packed into before.
    ///
    /// # Errors
    /// A folder with something else in it, or a pack of something else, or one whose shards are not as they were written.
    pub fn open(out: &Path, dataset: &Dataset, options: &PackOptions) -> Result<Ledger, DataError> {
        let source = Source { place: dataset.place(), images: dataset.len(), digest: format!("{:016x}", dataset.digest()) };
        let text = match fs::read_to_string(out.join(LEDGER)) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ledger::begin(out, source, options),
            Err(e) => return Err(DataError::path(out.join(LEDGER), format!("cannot be read: {e}"))),
        };
        let damaged = |what: String| DataError::path(out.join(LEDGER), format!("{what}; give another --out, or empty the folder"));
        let ledger: Ledger = serde_json::from_str(&text).map_err(|e| damaged(format!("is not a whole list of shards ({e})")))?;
        if ledger.version != VERSION {
            return Err(damaged(format!("is of version {}, which this program does not know", ledger.version)));
        }
        ledger.refuse_others(out, &source, options)?;
        for (number, entry) in ledger.shards.iter().enumerate() {
            let path = out.join(shard::name(number));
            if entry.file != shard::name(number) || fs::metadata(&path).map(|data| data.len()).ok() != Some(entry.bytes) {
                return Err(DataError::path(path, format!("is not there as {LEDGER} lists it; empty the folder and pack again")));
            }
        }
        if ledger.next > source.images {
            return Err(damaged("says more images than there are".into()));
        }
        Ok(ledger)
    }

    fn begin(out: &Path, source: Source, options: &PackOptions) -> Result<Ledger, DataError> {
        let entries = fs::read_dir(out).map_err(|e| DataError::path(out, format!("cannot be read: {e}")))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // An end before anything was whole leaves the first of these.
        if let Some(name) = names.filter(|name| !name.ends_with(".partial") && !name.starts_with('.')).min() {
            let what = format!("holds other files ({name}) and no shards; give --out an empty or new folder");
            return Err(DataError::Misuse { path: out.to_path_buf(), what });
        }
        let ledger =
            Ledger { version: VERSION, finished: false, source, settings: *options, next: 0, shards: Vec::new(), broken: Vec::new() };
        ledger.save(out)?;
        Ok(ledger)
    }

    fn refuse_others(&self, out: &Path, source: &Source, options: &PackOptions) -> Result<(), DataError> {
        let misuse = |what: String| Err(DataError::Misuse { path: out.to_path_buf(), what });
        if (&self.source.digest, self.source.images) != (&source.digest, source.images) {
            let Source { place, images, .. } = &self.source;
            return misuse(if *place == source.place {
                format!("holds shards of {place} when it had other names or labels ({images} images); give another --out")
            } else {
                format!("holds shards of other images ({images} of {place}); give another --out")
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
        misuse(format!("holds shards with other settings ({}); give the same ones, or another --out", differences.join(", ")))
    }

    /// Notes that a shard is whole and which images are done. Without a shard nothing but broken images came.
    ///
    /// # Errors
    /// A full disk.
    pub fn close(&mut self, out: &Path, shard: Option<Shard>, next: usize, broken: &mut Vec<(String, String)>) -> Result<(), DataError> {
        if let Some(shard) = shard {
            self.shards.push(shard.finish()?);
        }
        self.broken.extend(broken.drain(..).map(|(file, why)| Broken { file, why }));
        self.next = next;
        self.save(out)
    }

    /// Writes what lies beside whole shards.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(&mut self, out: &Path, classes: &[String]) -> Result<(), DataError> {
        let lines = |lines: Vec<String>| lines.concat().into_bytes();
        put(out, SUMS, &lines(self.shards.iter().map(|s| format!("{}  {}\n", s.sha256, s.file)).collect()))?;
        if !classes.is_empty() {
            put(out, shards::CLASSES, &json(&out.join(shards::CLASSES), &classes)?)?;
        }
        if !self.broken.is_empty() {
            put(out, BROKEN, &lines(self.broken.iter().map(|b| format!("{}: {}\n", b.file, b.why)).collect()))?;
        }
        self.finished = true;
        self.save(out)
    }

    fn save(&self, out: &Path) -> Result<(), DataError> {
        put(out, LEDGER, &json(&out.join(LEDGER), self)?)
    }

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

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, DataError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| DataError::path(path, e))?;
    Ok((text + "\n").into_bytes())
}

/// Writes a file as a whole or not at all.
pub(super) fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DataError> {
    let partial = folder.join(format!("{name}.partial"));
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, folder.join(name))
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&partial);
        unwritten(&folder.join(name), &e)
    })?;
    sync_folder(folder);
    Ok(())
}

/// Has the disk keep a folder's new names, where the system can.
pub(crate) fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Keeps other processes from packing into a folder while what is returned lives; nothing where the system locks no folders.
pub(crate) fn lock(out: &Path) -> Result<Option<File>, DataError> {
    let Ok(folder) = File::open(out) else { return Ok(None) };
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(DataError::path(out, "is being packed into by another process; wait for it, or give another --out"))
        }
        _ => Ok(Some(folder)),
    }
}
