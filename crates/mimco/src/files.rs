//! Atomic writing of files.

use crate::Error;
use mimco_data::atomic_file::AtomicFile;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes a file atomically: `fill` writes `NAME.partial` in the same folder, which is synced and
/// renamed. A crash leaves the old file or the new one; the next call overwrites a leftover
/// `NAME.partial`.
///
/// # Errors
/// A file that cannot be written. The old file is then unchanged, and `NAME.partial` is removed.
pub fn write_atomically_with(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>) -> Result<(), Error> {
    let written = AtomicFile::create(path).and_then(|mut file| {
        fill(&mut file)?;
        file.publish()
    });
    written.map_err(|e| Error::file(path, describe(&e)))
}

/// Writes `bytes` to a file atomically.
///
/// # Errors
/// Those of [`write_atomically_with`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically_with(path, |out| out.write_all(bytes))
}

/// Describes an error of writing together with its remedy.
pub fn describe(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::InvalidInput {
        return error.to_string(); // the contents are invalid, whatever the disk
    }
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "make the folder writable",
        ErrorKind::NotFound | ErrorKind::NotADirectory => "create the folder",
        ErrorKind::IsADirectory => "move the folder of that name",
        _ => "check that the disk is present and has space",
    };
    format!("cannot be written: {error}; {remedy} and run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"old").unwrap();
        let failed = write_atomically_with(&path, |out| {
            out.write_all(b"half")?;
            Err(std::io::Error::from(ErrorKind::StorageFull))
        });
        assert!(failed.unwrap_err().to_string().contains("free some space"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
