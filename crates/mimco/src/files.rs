//! Files that are there whole or not at all.

use crate::Error;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes a file by way of `NAME.tmp` beside it: filled by `fill`, synced, renamed. A crash leaves the old file or the new one; a `.tmp` that a
/// crash left behind is overwritten by the next try.
///
/// # Errors
/// Where it cannot be written; the old file is untouched then, and no `.tmp` stays.
pub fn write_atomically_with(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(path);
        Ok(())
    })();
    written.map_err(|e: std::io::Error| {
        let _ = std::fs::remove_file(&temporary);
        Error::file(path, describe(&e))
    })
}

/// [`write_atomically_with`] of bytes at hand.
///
/// # Errors
/// As there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically_with(path, |out| out.write_all(bytes))
}

/// What a failure to write means for the person who reads it.
pub fn describe(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::InvalidInput {
        return error.to_string(); // what was to be written cannot be, on any disk
    }
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "make the folder one that you may write",
        ErrorKind::NotFound | ErrorKind::NotADirectory => "make the folder",
        ErrorKind::IsADirectory => "move the folder of that name away",
        _ => "see that the disk is there and has room",
    };
    format!("cannot be written: {error}; {remedy} and run the same command again")
}

/// Makes the renaming itself last; best effort, since not every file system can.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
    {
        let _ = folder.sync_all();
    }
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
