//! A set's images, shrunk once, in WebDataset's tar shards, which this crate and Python's `webdataset` read.
//!
//! The folder holds `shard-000000.tar` and so on, an index beside each (as DALI's `wds2idx` writes it), `shards.json` (settings, source, and each shard's size and checksum), and once it is finished
//! `SHA256SUMS` for `sha256sum -c`, `classes.json` where there are labels, and `broken.txt` where images cannot be read. What lies there is a
//! function of images and settings alone, whatever the number of threads and however often it was interrupted.

mod keys;
mod ledger;
mod sample;
mod shard;

use crate::{DataError, Dataset};
use keys::Keys;
use ledger::{Ledger, lock};
use sample::Sample;
use shard::Shard;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

/// What becomes of images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// What is shrunk is a JPEG, colours at full size (4:4:4); what is small enough stays the file that it is.
    Jpeg,
    /// All are binary PPM, whose pixels need no decoding.
    Raw,
}

/// How to pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PackOptions {
    /// Pixels of the shorter side; images with more are shrunk to it.
    pub size: u32,
    /// What becomes of images.
    pub format: Format,
    /// Of a JPEG, 1 to 100.
    pub quality: u8,
    /// A shard is closed by the image with which it comes to so many bytes.
    pub shard_bytes: u64,
}

/// How packing ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All images are packed.
    Finished,
    /// They were already, and nothing was changed.
    AlreadyFinished,
    /// It was told to stop; the same call goes on behind the last whole shard.
    Interrupted,
}

/// What the folder holds, what earlier calls packed counted too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Images in whole shards.
    pub images: usize,
    /// Those of them that were shrunk.
    pub shrunk: usize,
    /// Images that cannot be read and are left out, and why.
    pub broken: Vec<(String, String)>,
    /// Whole shards.
    pub shards: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Images of the set, broken ones too, that earlier calls had done.
    pub resumed: usize,
}

/// Images that a thread has ready before they are written.
const AHEAD: usize = 2;

/// Packs a set into the folder `out`, which is made, in the set's order, decoding and encoding on `threads` threads; `progress` hears how many
/// images are done. After an error or when `interrupted` is set, the same call goes on behind the last whole shard.
///
/// The members of a sample are `KEY.jpg` (or what else it is) and, with labels, `KEY.cls` with the class's number. The key is the image's name
/// without its ending, dots made `_`; the few images that would share one have `_` and their number in the set behind it.
///
/// # Errors
/// Settings out of range; a folder that holds something else, or a pack of other images or with other settings, or is being packed into by
/// another process; a disk that is full or may not be written; a set none of whose images can be read, or whose folder goes away.
pub fn pack(
    dataset: &Dataset,
    out: &Path,
    options: &PackOptions,
    threads: usize,
    progress: impl Fn(usize) + Sync,
    interrupted: &AtomicBool,
) -> Result<PackReport, DataError> {
    let misuse = |what: &str| Err(DataError::Misuse { path: out.to_path_buf(), what: what.to_string() });
    if options.size == 0 || options.shard_bytes == 0 || !(1..=100).contains(&options.quality) {
        return misuse("a size and a shard's bytes are at least 1, a quality is from 1 to 100");
    }
    std::fs::create_dir_all(out).map_err(|e| DataError::path(out, format!("cannot be made: {e}; give another --out")))?;
    let _lock = lock(out)?;
    let mut ledger = Ledger::open(out, dataset, options)?;
    let resumed = ledger.next;
    if ledger.finished {
        return Ok(ledger.report(Outcome::AlreadyFinished, resumed));
    }
    let keys = Keys::of(dataset);
    let threads = threads.clamp(1, (dataset.len() - resumed).max(1));
    let whole = std::thread::scope(|scope| {
        // Thread t makes images t, t + threads, ...; so taking from each in turn gives the set's order, and no more wait than there is room for.
        let lanes: Vec<Receiver<Result<Sample, DataError>>> = (0..threads)
            .map(|lane| {
                let (send, receive) = sync_channel(AHEAD);
                let keys = &keys;
                scope.spawn(move || {
                    // Who receives no more has stopped.
                    (resumed + lane..dataset.len())
                        .step_by(threads)
                        .try_for_each(|index| send.send(sample::make(dataset, index, keys, options)))
                });
                receive
            })
            .collect();
        write(dataset, out, options, &mut ledger, &lanes, &progress, interrupted)
    })?;
    if !whole {
        return Ok(ledger.report(Outcome::Interrupted, resumed));
    }
    ledger.finish(out, dataset.classes())?;
    Ok(ledger.report(Outcome::Finished, resumed))
}

/// Writes samples in their order; false where it was interrupted.
fn write(
    dataset: &Dataset,
    out: &Path,
    options: &PackOptions,
    ledger: &mut Ledger,
    lanes: &[Receiver<Result<Sample, DataError>>],
    progress: &impl Fn(usize),
    interrupted: &AtomicBool,
) -> Result<bool, DataError> {
    let mut shard: Option<Shard> = None;
    let mut broken = Vec::new();
    for (index, lane) in (ledger.next..dataset.len()).zip(lanes.iter().cycle()) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // A thread that is gone has panicked, and the scope does so too.
        let Ok(made) = lane.recv() else { return Ok(false) };
        match made {
            Ok(sample) => {
                let open = match &mut shard {
                    Some(open) => open,
                    None => shard.insert(Shard::create(out, ledger.shards.len())?),
                };
                open.add(&sample)?;
                if open.bytes() >= options.shard_bytes {
                    ledger.close(out, shard.take(), index + 1, &mut broken)?;
                }
            }
            Err(DataError::Unread { name, what, passes: true }) => {
                let what = format!("{what}; bring back what is away and run the same command again, which goes on");
                return Err(DataError::Unread { name, what, passes: true });
            }
            Err(DataError::Unread { name, what, .. }) => broken.push((name, what)),
            Err(DataError::Image { name, what }) => broken.push((name, what)),
            Err(other) => broken.push((dataset.name(index), other.to_string())),
        }
        progress(index + 1);
    }
    if shard.is_none() && ledger.shards.is_empty() {
        let first = broken.first().map_or(String::new(), |(name, what)| format!("; the first, {name}: {what}"));
        return Err(DataError::Broken(format!("none of the {} images can be read{first}", dataset.len())));
    }
    ledger.close(out, shard, dataset.len(), &mut broken)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rgb;

    /// By hand, as reading waits half a minute for a folder that is away.
    #[test]
    fn a_source_that_goes_away_is_no_heap_of_broken_images() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("source"), folder.path().join("out"));
        [&source, &out].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        for name in ["1.png", "2.png", "3.png"] {
            std::fs::write(source.join(name), Rgb { width: 1, height: 1, pixels: vec![9; 3] }.to_png().unwrap()).unwrap();
        }
        let dataset = Dataset::heap(&source).unwrap();
        let options = PackOptions { size: 8, format: Format::Raw, quality: 92, shard_bytes: 1 };
        let away = || Err(DataError::Unread { name: "x".into(), what: "cannot be read".into(), passes: true });
        let mut ledger = Ledger::open(&out, &dataset, &options).unwrap();
        let (send, receive) = sync_channel(3);
        send.send(sample::make(&dataset, 0, &Keys::of(&dataset), &options)).unwrap();
        [away(), away()].into_iter().for_each(|made| send.send(made).unwrap());
        let error = write(&dataset, &out, &options, &mut ledger, &[receive], &|_| {}, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains("x: cannot be read; bring back what is away"), "{error}");
        assert_eq!((ledger.next, ledger.shards.len()), (1, 1), "what was whole is kept, the rest is still to come");
    }
}
