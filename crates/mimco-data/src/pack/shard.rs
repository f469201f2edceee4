//! Writing one shard, as `NAME.partial` until it is complete and on disk.

use crate::atomic_file::{self, AtomicFile, partial_path};
use crate::error::DataError;
use crate::pack::checksums::hex;
use crate::pack::sample::Sample;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A shard that is being written.
pub(crate) struct Shard {
    archive: tar::Builder<Digested>,
    path: PathBuf,
    name: String,
    images: usize,
    shrunk: usize,
    /// Lines of the index, one per sample with the positions of its members. `None` once a name
    /// contains whitespace, which the format of the index does not allow.
    index: Option<String>,
}

/// A finished shard, as listed in `shards.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct FinishedShard {
    pub file: String,
    pub bytes: u64,
    pub images: usize,
    pub shrunk: usize,
    pub sha256: String,
}

/// A file whose bytes are counted and digested as they are written.
struct Digested {
    file: AtomicFile,
    digest: Sha256,
    bytes: u64,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Returns the name of shard `number`.
pub(crate) fn name(number: usize) -> String {
    format!("shard-{number:06}.tar")
}

/// Returns the error of a file that cannot be written.
pub(crate) fn write_error(path: &Path, error: &io::Error) -> DataError {
    DataError::path(path, format!("cannot be written: {error}; fix this and run the same command again to continue"))
}

impl Shard {
    /// Starts shard `number`, replacing an unfinished one.
    ///
    /// # Errors
    /// Fails if the folder cannot be written.
    pub fn create(folder: &Path, number: usize) -> Result<Shard, DataError> {
        let name = name(number);
        let path = folder.join(&name);
        let file = AtomicFile::create(&path).map_err(|e| write_error(&partial_path(&path), &e))?;
        let archive = tar::Builder::new(Digested { file, digest: Sha256::new(), bytes: 0 });
        Ok(Shard { archive, path, name, images: 0, shrunk: 0, index: Some(String::new()) })
    }

    /// Returns the number of bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.archive.get_ref().bytes
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// Fails if the file cannot be written, for example on a full disk.
    pub fn add(&mut self, sample: &Sample) -> Result<(), DataError> {
        let mut members = Vec::new();
        let mut append_member = |extension: &str, bytes: &[u8]| -> io::Result<()> {
            // User and time are left out, so that the shard's bytes are reproducible.
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let name = format!("{}.{extension}", sample.key);
            self.archive.append_data(&mut header, &name, bytes)?;
            let start = self.archive.get_ref().bytes - (bytes.len() as u64).next_multiple_of(512);
            members.push(format!("{extension} {start} {} {name}", bytes.len()));
            Ok(())
        };
        let mut put_all = || {
            append_member(sample.extension, &sample.bytes)?;
            sample.label.map_or(Ok(()), |label| append_member("cls", label.to_string().as_bytes()))
        };
        put_all().map_err(|e| write_error(&partial_path(&self.path), &e))?;
        self.index = self.index.take().filter(|_| !sample.key.contains(char::is_whitespace)).map(|index| index + &members.join(" ") + "\n");
        self.images += 1;
        self.shrunk += sample.shrunk as usize;
        Ok(())
    }

    /// Completes the archive, syncs it to disk, writes its index, and gives the archive its final
    /// name.
    ///
    /// # Errors
    /// Fails if a file cannot be written, for example on a full disk.
    pub fn finish(self) -> Result<FinishedShard, DataError> {
        let Shard { archive, path, name, images, shrunk, index } = self;
        let failed = |e: io::Error| write_error(&partial_path(&path), &e);
        let Digested { mut file, digest, bytes } = archive.into_inner().map_err(failed)?;
        file.sync().map_err(failed)?;
        if let Some(lines) = index {
            let index = path.with_extension("idx");
            atomic_file::write(&index, format!("v1.2 {images}\n{lines}").as_bytes()).map_err(|e| write_error(&index, &e))?;
        }
        file.publish().map_err(failed)?;
        Ok(FinishedShard { file: name, bytes, images, shrunk, sha256: hex(digest.finalize()) })
    }
}
