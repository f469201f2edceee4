//! Reading an object as a file.

use crate::storage::object_store::Store;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes per request.
pub(crate) const BLOCK: u64 = 4 << 20;

impl Store {
    /// Returns a reader of an object. It fetches blocks of 4 MiB as they are read, with one request
    /// each; skipped blocks are not fetched.
    ///
    /// # Errors
    /// Fails as [`Store::size`] does. Reading fails as [`Store::read`] does, and may be retried.
    pub(crate) fn reader(&self, key: &str) -> io::Result<ObjectReader> {
        let size = self.size(key)?;
        Ok(ObjectReader { store: self.clone(), key: key.to_string(), size, at: 0, first: 0, block: Vec::new() })
    }
}

/// An object that is read as a file; see [`Store::reader`].
pub(crate) struct ObjectReader {
    store: Store,
    key: String,
    /// Size of the object in bytes.
    size: u64,
    /// Offset of the next byte to read.
    at: u64,
    /// Offset of the first byte of `block`.
    first: u64,
    /// The block fetched last.
    block: Vec<u8>,
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || out.is_empty() {
            return Ok(0);
        }
        if !(self.first..self.first + self.block.len() as u64).contains(&self.at) {
            let end = self.size.min(self.at.saturating_add(BLOCK));
            self.block = self.store.read(&self.key, Some(self.at..end))?;
            self.first = self.at;
        }
        let held = self.block.get((self.at - self.first) as usize..).unwrap_or_default();
        let count = held.len().min(out.len());
        out[..count].copy_from_slice(&held[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the first byte"))?;
        Ok(self.at)
    }
}
