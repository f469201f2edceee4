//! Where a set's files lie: below a folder, or in an object store.

use crate::DataError;
use crate::patience::{Patience, is_away, stays};
use crate::remote::{Store, is_remote, shown};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of an image as it is stored, at the most.
pub(crate) const MOST_BYTES: u64 = 1 << 30;

/// A folder or a store; files are named by their paths below it.
pub(crate) struct Place {
    /// As it was given, without secrets.
    root: PathBuf,
    store: Option<Store>,
    patience: Patience,
}

/// A file that is looked through.
pub(crate) trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

impl Place {
    /// A folder.
    pub fn folder(root: &Path) -> Place {
        Place { root: root.into(), store: None, patience: Patience::default() }
    }

    /// A folder, or an object store by its URL.
    ///
    /// # Errors
    /// A URL that is none, or of a store that this build does not read.
    pub fn open(root: &Path) -> Result<Place, DataError> {
        if !is_remote(root) {
            return Ok(Place::folder(root));
        }
        let url = root.to_string_lossy();
        Ok(Place { root: shown(&url).into(), store: Some(Store::open(&url)?), patience: Patience::default() })
    }

    /// Whether reading many small parts takes long.
    pub fn is_far(&self) -> bool {
        self.store.is_some()
    }

    /// The store, where it is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Its path or URL.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A file's path or URL.
    pub fn full(&self, file: &Path) -> PathBuf {
        self.root.join(file)
    }

    /// A file's bytes, all or some of them; what a disk or a network fails to give is asked for again.
    ///
    /// # Errors
    /// A file that is gone or shorter, a disk or network that fails.
    pub fn read(&self, file: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        if let Some(store) = &self.store {
            return store.read(&key(file), range); // which has a patience of its own
        }
        let path = self.full(file);
        self.patience.read(&self.root, &path, || match &range {
            None => read_file(&path),
            Some(range) => read_part(&path, range),
        })
    }

    /// Whether what failed with an error may be read later.
    pub fn passes(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::NotFound => !self.is_far() && is_away(&self.root),
            kind => !stays(kind),
        }
    }

    /// A file to look through, and its bytes.
    ///
    /// # Errors
    /// As [`Place::read`].
    pub fn look_into(&self, file: &Path) -> io::Result<(Box<dyn Source>, u64)> {
        if let Some(store) = &self.store {
            let mut reader = store.reader(&key(file))?;
            let length = reader.seek(SeekFrom::End(0))?; // asks nothing of the store
            reader.rewind()?;
            return Ok((Box::new(reader), length));
        }
        let file = File::open(self.full(file))?;
        let length = file.metadata()?.len();
        Ok((Box::new(BufReader::new(file)), length))
    }
}

/// An image's file; a pipe or a device, which might never end, is none.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file, or larger than any image"));
    }
    std::fs::read(path)
}

/// A path as a store's key.
fn key(file: &Path) -> String {
    crate::folders::slashed(file)
}

fn read_part(path: &Path, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let length = range.end.saturating_sub(range.start);
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
