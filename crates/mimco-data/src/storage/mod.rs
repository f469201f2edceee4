//! Storage of a dataset's files: a local folder or an object store.

mod object_reader;
#[cfg(feature = "object-store")]
pub(crate) mod object_store;
#[cfg(not(feature = "object-store"))]
#[path = "no_object_store.rs"]
pub(crate) mod object_store;
pub(crate) mod retry;
#[cfg(all(test, feature = "object-store"))]
mod tests;
pub(crate) mod url;

use crate::error::DataError;
use crate::path_names::slashed;
use object_store::Store;
use retry::{RetryPolicy, is_permanent, is_unavailable};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use url::{is_url, redacted};

/// Limit of the size of a stored image, bytes.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// A folder or an object store. Files are named by their paths below it.
pub(crate) struct Storage {
    /// The path or URL as the user gave it, without secrets.
    root: PathBuf,
    store: Option<Store>,
    retries: RetryPolicy,
}

/// An open file.
pub(crate) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl Storage {
    /// Returns the storage of a local folder.
    pub fn folder(root: &Path) -> Storage {
        Storage { root: root.into(), store: None, retries: RetryPolicy::default() }
    }

    /// Returns the storage of a local folder or of an object store's URL.
    ///
    /// # Errors
    /// Fails if the URL is invalid, or if this build does not support its store.
    pub fn open(root: &Path) -> Result<Storage, DataError> {
        if !is_url(root) {
            return Ok(Storage::folder(root));
        }
        let url = root.to_string_lossy();
        Ok(Storage { root: redacted(&url).into(), store: Some(Store::open(&url)?), retries: RetryPolicy::default() })
    }

    /// Returns whether this is an object store, where many small reads are slow.
    pub fn is_remote(&self) -> bool {
        self.store.is_some()
    }

    /// Returns the object store, if it is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Returns the path or URL.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Returns a file's path or URL.
    pub fn join(&self, file: &Path) -> PathBuf {
        self.root.join(file)
    }

    /// Reads a file's bytes, or a range of them. Failures of a disk or network are retried.
    ///
    /// # Errors
    /// Fails if the file is missing or shorter than the range, and if a disk or network fails.
    pub fn read(&self, file: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        if let Some(store) = &self.store {
            return store.read(&slashed(file), range); // retries by itself
        }
        let path = self.join(file);
        self.retries.read(&self.root, &path, || match &range {
            None => read_file(&path),
            Some(range) => read_range(&path, range),
        })
    }

    /// Returns whether reading may succeed later after this error.
    pub fn is_transient(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::NotFound => !self.is_remote() && is_unavailable(&self.root),
            kind => !is_permanent(kind),
        }
    }

    /// Opens a file; returns it with its length in bytes.
    ///
    /// # Errors
    /// Fails as [`Storage::read`] does.
    pub fn open_file(&self, file: &Path) -> io::Result<(Box<dyn ReadSeek>, u64)> {
        if let Some(store) = &self.store {
            let mut reader = store.reader(&slashed(file))?;
            let length = reader.seek(SeekFrom::End(0))?; // sends no request
            reader.rewind()?;
            return Ok((Box::new(reader), length));
        }
        let file = File::open(self.join(file))?;
        let length = file.metadata()?.len();
        Ok((Box::new(BufReader::new(file)), length))
    }
}

/// Reads an image file. Pipes and devices are errors, as reading them might never end.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file, or larger than 1 GiB"));
    }
    std::fs::read(path)
}

/// Reads a range of bytes completely.
fn read_range(path: &Path, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let length = range.end.saturating_sub(range.start);
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
