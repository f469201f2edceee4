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

/// Files that vanished alone are waited for until so many have not come back: a list may name thousands that are not there.
const VANISHED: usize = 20;

/// The patience with a set's files.
#[derive(Default)]
pub(crate) struct Patience {
    /// The folder stayed away for as long as it is waited for; until it is back, files are asked for once.
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
            let away = !root.exists() || file.parent().is_some_and(|folder| !folder.exists());
            let waits: &[Duration] = match error.kind() {
                _ if away && self.given_up.load(Ordering::Relaxed) => &[],
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

/// Whether a failure to read a file would be the same a second later.
fn stays(kind: io::ErrorKind) -> bool {
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
        for (there, here) in [(root.clone(), away), (file.clone(), folder.path().join("2"))] {
            fs::rename(&there, &here).unwrap();
            let back = after(250, here, there);
            assert_eq!(patience.read(&root, &file, || fs::read(&file)).unwrap(), b"one");
            back.join().unwrap();
        }
    }

    #[test]
    fn what_stays_wrong_is_asked_for_once_and_what_may_pass_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1");
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
        // A folder that has been waited for is not waited for again with every file.
        patience.given_up.store(true, Ordering::Relaxed);
        let gone = folder.path().join("gone");
        assert_eq!(tries(&patience, &gone, io::ErrorKind::NotFound, 2), (1, false));
        assert_eq!(tries(&patience, &gone, io::ErrorKind::NotFound, 1), (1, true));
        assert!(!patience.given_up.load(Ordering::Relaxed));
        patience.vanished.store(VANISHED, Ordering::Relaxed);
        assert_eq!(tries(&patience, folder.path(), io::ErrorKind::NotFound, 2), (1, false));
    }
}
