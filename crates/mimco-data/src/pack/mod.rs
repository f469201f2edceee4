//! Packing a dataset: its images are resized once and written to WebDataset's tar shards, which
//! this crate and Python's `webdataset` read.
//!
//! The folder contains `shard-000000.tar` and so on, each with an index (in the format of DALI's
//! `wds2idx`), and `shards.json` (settings, source, and size and checksum of each shard). A
//! finished pack also has `SHA256SUMS` for `sha256sum -c`, `classes.json` for a labelled dataset,
//! and `broken.txt` if images cannot be read. The contents are a function of images and settings
//! alone; they depend neither on the number of threads nor on interruptions.

pub mod checksums;
mod keys;
mod manifest;
mod options;
mod sample;
mod shard;

pub use options::{Format, Outcome, PackOptions, PackReport};

use crate::dataset::Dataset;
use crate::error::DataError;
use keys::Keys;
use manifest::{Manifest, lock};
use sample::Sample;
use shard::Shard;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

/// Number of images that each thread prepares ahead of writing.
const AHEAD: usize = 2;

/// Packs a dataset into the folder `out` in the order of the dataset.
///
/// The folder is created if necessary. Decoding and encoding run on `threads` threads, and
/// `progress` is called with the number of processed images. After an error, or when `interrupted`
/// is set, the same call continues after the last finished shard.
///
/// The members of a sample are `KEY.jpg` (or another extension) and, with labels, `KEY.cls` with
/// the number of the class. The key is the image's name without its extension, with `_` for dots.
/// Images that would share a key have `_` and their number in the dataset appended.
///
/// # Errors
/// Fails if a setting is out of range, or if no image can be read or the source becomes
/// unavailable. Fails if `out` contains other files or another pack, if another process is packing
/// into it, and if it cannot be written.
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
        return misuse("size and bytes of a shard must be at least 1, and quality from 1 to 100");
    }
    std::fs::create_dir_all(out).map_err(|e| DataError::path(out, format!("cannot be created: {e}; give another --out")))?;
    let _lock = lock(out)?;
    let mut manifest = Manifest::open(out, dataset, options)?;
    let resumed = manifest.next;
    if manifest.finished {
        return Ok(manifest.report(Outcome::AlreadyFinished, resumed));
    }
    let keys = Keys::of(dataset);
    let threads = threads.clamp(1, (dataset.len() - resumed).max(1));
    let whole = std::thread::scope(|scope| {
        // Thread t makes images t, t + threads, ... Receiving from the threads in turn gives the
        // order of the dataset, and the bounded channels limit the images in memory.
        let lanes: Vec<Receiver<Result<Sample, DataError>>> = (0..threads)
            .map(|lane| {
                let (send, receive) = sync_channel(AHEAD);
                let keys = &keys;
                scope.spawn(move || {
                    // Sending fails once the receiver has stopped.
                    (resumed + lane..dataset.len())
                        .step_by(threads)
                        .try_for_each(|index| send.send(sample::make(dataset, index, keys, options)))
                });
                receive
            })
            .collect();
        write(dataset, out, options, &mut manifest, &lanes, &progress, interrupted)
    })?;
    if !whole {
        return Ok(manifest.report(Outcome::Interrupted, resumed));
    }
    manifest.finish(out, dataset.classes())?;
    Ok(manifest.report(Outcome::Finished, resumed))
}

/// Writes samples in order; returns whether all were written, which is false after an interruption.
fn write(
    dataset: &Dataset,
    out: &Path,
    options: &PackOptions,
    manifest: &mut Manifest,
    lanes: &[Receiver<Result<Sample, DataError>>],
    progress: &impl Fn(usize),
    interrupted: &AtomicBool,
) -> Result<bool, DataError> {
    let mut shard: Option<Shard> = None;
    let mut broken = Vec::new();
    for (index, lane) in (manifest.next..dataset.len()).zip(lanes.iter().cycle()) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // The channel closes only if its thread panicked, which the scope propagates.
        let Ok(made) = lane.recv() else { return Ok(false) };
        match made {
            Ok(sample) => {
                let current = match &mut shard {
                    Some(current) => current,
                    None => shard.insert(Shard::create(out, manifest.shards.len())?),
                };
                current.add(&sample)?;
                if current.bytes() >= options.shard_bytes {
                    manifest.close(out, shard.take(), index + 1, &mut broken)?;
                }
            }
            Err(DataError::Unread { name, what, is_transient: true }) => {
                let what = format!("{what}; make the images available and run the same command again to continue");
                return Err(DataError::Unread { name, what, is_transient: true });
            }
            Err(DataError::Unread { name, what, .. }) => broken.push((name, what)),
            Err(DataError::Image { name, what }) => broken.push((name, what)),
            Err(other) => broken.push((dataset.name(index), other.to_string())),
        }
        progress(index + 1);
    }
    if shard.is_none() && manifest.shards.is_empty() {
        let first = broken.first().map_or(String::new(), |(name, what)| format!("; the first, {name}: {what}"));
        return Err(DataError::Broken(format!("none of the {} images can be read{first}", dataset.len())));
    }
    manifest.close(out, shard, dataset.len(), &mut broken)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Rgb;

    /// Sends the errors by hand, as reading waits half a minute for an unavailable folder.
    #[test]
    fn a_source_that_becomes_unavailable_does_not_count_as_broken_images() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("source"), folder.path().join("out"));
        [&source, &out].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        for name in ["1.png", "2.png", "3.png"] {
            std::fs::write(source.join(name), Rgb { width: 1, height: 1, pixels: vec![9; 3] }.to_png().unwrap()).unwrap();
        }
        let dataset = Dataset::open_unlabelled(&source).unwrap();
        let options = PackOptions { size: 8, format: Format::Raw, quality: 92, shard_bytes: 1 };
        let unavailable = || Err(DataError::Unread { name: "x".into(), what: "cannot be read".into(), is_transient: true });
        let mut manifest = Manifest::open(&out, &dataset, &options).unwrap();
        let (send, receive) = sync_channel(3);
        send.send(sample::make(&dataset, 0, &Keys::of(&dataset), &options)).unwrap();
        [unavailable(), unavailable()].into_iter().for_each(|made| send.send(made).unwrap());
        let error = write(&dataset, &out, &options, &mut manifest, &[receive], &|_| {}, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains("x: cannot be read; make the images available"), "{error}");
        assert_eq!((manifest.next, manifest.shards.len()), (1, 1), "the finished shard is kept");
    }
}
