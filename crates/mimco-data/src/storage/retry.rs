//! Retrying reads after failures of a disk or network.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Pauses between attempts to read a file.
const FILE: [Duration; 3] = [ms(100), ms(500), ms(2000)];

/// Pauses while the whole folder is unavailable, for example an unmounted disk: half a minute in
/// all.
const FOLDER: [Duration; 6] = [ms(100), ms(500), ms(2000), ms(5000), ms(10_000), ms(12_000)];

/// Pauses for each further file while the folder remains unavailable, so that few files are skipped
/// until it is back.
const STILL_UNAVAILABLE: [Duration; 1] = [ms(10_000)];

/// Missing files are retried until this many were not found again: a list may name thousands of
/// missing files.
const MAX_MISSING: usize = 20;

/// Decides how often reading a dataset's files is retried.
#[derive(Default)]
pub(crate) struct RetryPolicy {
    /// Whether the folder stayed unavailable for all of [`FOLDER`] and is not back.
    gave_up: AtomicBool,
    /// Number of missing files that were not found again.
    missing: AtomicUsize,
}

impl RetryPolicy {
    /// Reads a file below `root`. Retries if a disk or network fails, if the file is missing, and
    /// if the folder is unavailable.
    ///
    /// # Errors
    /// Returns the last error of `read`.
    pub fn read<T>(&self, root: &Path, file: &Path, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut retries = 0;
        loop {
            let error = match read() {
                Ok(done) => {
                    self.gave_up.store(false, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let unavailable = is_unavailable(root);
            let pauses: &[Duration] = match error.kind() {
                _ if unavailable && self.gave_up.load(Ordering::Relaxed) => &STILL_UNAVAILABLE,
                _ if unavailable => &FOLDER,
                io::ErrorKind::NotFound if self.missing.load(Ordering::Relaxed) >= MAX_MISSING => &[],
                io::ErrorKind::NotFound => &FILE[..2],
                kind if is_permanent(kind) => &[],
                _ => &FILE,
            };
            let Some(&pause) = pauses.get(retries) else {
                self.gave_up.fetch_or(unavailable, Ordering::Relaxed);
                self.missing.fetch_add((!unavailable && error.kind() == io::ErrorKind::NotFound) as usize, Ordering::Relaxed);
                return Err(error);
            };
            tracing::warn!("{}: {error}; retrying in {:.1} s", file.display(), pause.as_secs_f64());
            std::thread::sleep(pause);
            retries += 1;
        }
    }
}

/// Returns whether a folder is missing or empty; an unmounted mount point is empty.
pub(crate) fn is_unavailable(root: &Path) -> bool {
    std::fs::read_dir(root).map_or(!root.is_file(), |mut entries| entries.next().is_none())
}

/// Returns whether a failed read would fail in the same way a second later.
pub(crate) fn is_permanent(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        InvalidData, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, PermissionDenied, UnexpectedEof, Unsupported,
    };
    [InvalidData, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, PermissionDenied, UnexpectedEof, Unsupported].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn reading_continues_when_a_folder_or_file_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (root, away) = (folder.path().join("mount"), folder.path().join("away"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("1"), "one").unwrap();
        let policy = RetryPolicy::default();
        let after = |milliseconds, there: std::path::PathBuf, here: std::path::PathBuf| {
            std::thread::spawn(move || {
                std::thread::sleep(ms(milliseconds));
                fs::rename(there, here).unwrap();
            })
        };
        let file = root.join("1");
        fs::write(root.join("other"), "").unwrap();
        for (there, here) in [(root.clone(), away), (file.clone(), folder.path().join("2"))] {
            fs::rename(&there, &here).unwrap();
            let back = after(250, here, there);
            assert_eq!(policy.read(&root, &file, || fs::read(&file)).unwrap(), b"one");
            back.join().unwrap();
        }
    }

    #[test]
    fn an_unmounted_folder_is_missing_or_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_unavailable(folder.path()) && is_unavailable(&folder.path().join("gone")));
        fs::write(folder.path().join("1"), "").unwrap();
        assert!(!is_unavailable(folder.path()) && !is_unavailable(&folder.path().join("1")));
    }

    #[test]
    fn permanent_errors_are_not_retried_and_transient_ones_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1");
        fs::write(folder.path().join("other"), "").unwrap();
        let attempts = |policy: &RetryPolicy, root: &Path, kind: io::ErrorKind, succeeds_at: usize| {
            let tried = Cell::new(0);
            let result = policy.read(root, &file, || {
                tried.set(tried.get() + 1);
                if tried.get() == succeeds_at { Ok(()) } else { Err(kind.into()) }
            });
            (tried.get(), result.is_ok())
        };
        let policy = RetryPolicy::default();
        assert_eq!(attempts(&policy, folder.path(), io::ErrorKind::PermissionDenied, 2), (1, false));
        assert_eq!(attempts(&policy, folder.path(), io::ErrorKind::TimedOut, 2), (2, true));
        assert_eq!(attempts(&policy, folder.path(), io::ErrorKind::NotFound, 2), (2, true));
        policy.missing.store(MAX_MISSING, Ordering::Relaxed);
        assert_eq!(attempts(&policy, folder.path(), io::ErrorKind::NotFound, 2), (1, false));
    }
}
