//! Files that appear under their name only when they are complete and on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Buffer size of the writer, bytes.
const BUFFER: usize = 1 << 20;

/// A file that is written as `PATH.partial`. [`AtomicFile::publish`] renames it to `PATH`; dropping
/// it without publishing deletes the partial file.
pub struct AtomicFile {
    file: BufWriter<File>,
    path: PathBuf,
    published: bool,
}

impl AtomicFile {
    /// Creates `PATH.partial`, or truncates the one left by an interrupted process.
    ///
    /// # Errors
    /// Fails if the file cannot be created.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        let file = BufWriter::with_capacity(BUFFER, File::create(partial_path(path))?);
        Ok(AtomicFile { file, path: path.into(), published: false })
    }

    /// Flushes all bytes to the disk; the file keeps its partial name.
    ///
    /// # Errors
    /// Fails if the bytes cannot be written, for example on a full disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }

    /// Syncs the file and renames it to its final name.
    ///
    /// # Errors
    /// Fails if the bytes cannot be written or the file cannot be renamed.
    pub fn publish(mut self) -> io::Result<()> {
        self.sync()?;
        fs::rename(partial_path(&self.path), &self.path)?;
        self.published = true;
        if let Some(folder) = self.path.parent() {
            sync_folder(folder);
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(partial_path(&self.path));
        }
    }
}

/// Writes a whole file at once, either completely or not at all.
///
/// # Errors
/// Fails if the file cannot be created, written or renamed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes)?;
    file.publish()
}

/// Returns the name of a file while it is being written.
pub(crate) fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Flushes a folder's new file names to disk, on systems that support it.
fn sync_folder(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}
