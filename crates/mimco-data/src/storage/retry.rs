//! Reading again what a disk or a network fails to give.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How long a file is waited for, each time it is tried.
const FILE: [Duration; 3] = [ms(100), ms(500), ms(2000)];

/// How long a folder is waited for, as when a mount drops: half a minute in all.
const FOLDER: [Duration; 6] = [ms(100), ms(500), ms(2000), ms(5000), ms(10_000), ms(12_000)];

/// How long each further file is waited for while the folder stays away, so that few are skipped until it is back.
const STILL_AWAY: [Duration; 1] = [ms(10_000)];

/// Files that vanished alone are waited for until so many have not come back: a list may name thousands that are not there.
const VANISHED: usize = 20;

/// The patience with a set's files.
#[derive(Default)]
pub(crate) struct Patience {
    /// The folder stayed away for as long as it is waited for, and is not back.
    given_up: AtomicBool,
    /// Files that vanished alone and did not come back.
    vanished: AtomicUsize,
}

impl Patience {
    /// Reads a file of `root`, again after a while where a disk or a network fails to give it, it has vanished, or its folder is away.
    pub fn read<T>(&self, root: &Path, file: &Path, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut waited = 0;
        loop {
            let error = match read() {
                Ok(done) => {
                    self.given_up.store(false, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let away = is_away(root);
            let waits: &[Duration] = match error.kind() {
                _ if away && self.given_up.load(Ordering::Relaxed) => &STILL_AWAY,
                _ if away => &FOLDER,
                io::ErrorKind::NotFound if self.vanished.load(Ordering::Relaxed) >= VANISHED => &[],
                io::ErrorKind::NotFound => &FILE[..2],
                kind if stays(kind) => &[],
                _ => &FILE,
            };
            let Some(&wait) = waits.get(waited) else {
                self.given_up.fetch_or(away, Ordering::Relaxed);
                self.vanished.fetch_add((!away && error.kind() == io::ErrorKind::NotFound) as usize, Ordering::Relaxed);
                return Err(error);
            };
            tracing::warn!("{}: {error}; trying again in {:.1} s", file.display(), wait.as_secs_f64());
            std::thread::sleep(wait);
            waited += 1;
        }
    }
}

/// Whether a folder is not there, or empty, as a mount's is when nothing is mounted.
pub(crate) fn is_away(root: &Path) -> bool {
    std::fs::read_dir(root).map_or(!root.is_file(), |mut entries| entries.next().is_none())
}

/// Whether a failure to read a file would be the same a second later.
pub(crate) fn stays(kind: io::ErrorKind) -> bool {
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
    fn a_folder_or_a_file_that_comes_back_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let (root, away) = (folder.path().join("mount"), folder.path().join("away"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("1"), "one").unwrap();
        let patience = Patience::default();
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
            assert_eq!(patience.read(&root, &file, || fs::read(&file)).unwrap(), b"one");
            back.join().unwrap();
        }
    }

    #[test]
    fn a_mount_that_dropped_is_gone_or_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_away(folder.path()) && is_away(&folder.path().join("gone")));
        fs::write(folder.path().join("1"), "").unwrap();
        assert!(!is_away(folder.path()) && !is_away(&folder.path().join("1")));
    }

    #[test]
    fn what_stays_wrong_is_asked_for_once_and_what_may_pass_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1");
        fs::write(folder.path().join("other"), "").unwrap();
        let tries = |patience: &Patience, root: &Path, kind: io::ErrorKind, passes_at: usize| {
            let tried = Cell::new(0);
            let result = patience.read(root, &file, || {
                tried.set(tried.get() + 1);
                if tried.get() == passes_at { Ok(()) } else { Err(kind.into()) }
            });
            (tried.get(), result.is_ok())
        };
        let patience = Patience::default();
        assert_eq!(tries(&patience, folder.path(), io::ErrorKind::PermissionDenied, 2), (1, false));
        assert_eq!(tries(&patience, folder.path(), io::ErrorKind::TimedOut, 2), (2, true));
        assert_eq!(tries(&patience, folder.path(), io::ErrorKind::NotFound, 2), (2, true));
        patience.vanished.store(VANISHED, Ordering::Relaxed);
        assert_eq!(tries(&patience, folder.path(), io::ErrorKind::NotFound, 2), (1, false));
    }
}
