//! One shard while it is written: `NAME.partial` until it is whole and on the disk.

use super::ledger::{Entry, put, sync_folder};
use super::sample::Sample;
use crate::{DataError, sums};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub(crate) struct Shard {
    archive: tar::Builder<Hashed>,
    folder: PathBuf,
    name: String,
    images: usize,
    shrunk: usize,
    /// Where its members lie, a line a sample, for the index beside it; none where a name has a space in it, which the index's form does not allow.
    index: Option<String>,
}

/// A file, its bytes counted and summed up on the way.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What shard `number` is called.
pub(crate) fn name(number: usize) -> String {
    format!("shard-{number:06}.tar")
}

/// An error about a file of the pack that cannot be written.
pub(crate) fn unwritten(path: &Path, error: &io::Error) -> DataError {
    DataError::path(path, format!("cannot be written: {error}; put that right and run the same command again, which goes on"))
}

impl Shard {
    /// Begins a shard, over what was left of it.
    ///
    /// # Errors
    /// A folder that may not be written.
    pub fn create(folder: &Path, number: usize) -> Result<Shard, DataError> {
        let name = name(number);
        let partial = partial(folder, &name);
        let file = File::create(&partial).map_err(|e| unwritten(&partial, &e))?;
        let file = Hashed { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 };
        Ok(Shard { archive: tar::Builder::new(file), folder: folder.to_path_buf(), name, images: 0, shrunk: 0, index: Some(String::new()) })
    }

    /// Its bytes so far.
    pub fn bytes(&self) -> u64 {
        self.archive.get_ref().bytes
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// A full disk.
    pub fn add(&mut self, sample: &Sample) -> Result<(), DataError> {
        let mut members = Vec::new();
        let mut put = |ending: &str, bytes: &[u8]| -> io::Result<()> {
            // Who packed it, and when, is left out: it would make other bytes each time.
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let name = format!("{}.{ending}", sample.key);
            self.archive.append_data(&mut header, &name, bytes)?;
            let start = self.archive.get_ref().bytes - (bytes.len() as u64).next_multiple_of(512);
            members.push(format!("{ending} {start} {} {name}", bytes.len()));
            Ok(())
        };
        let mut put_all = || {
            put(sample.ending, &sample.bytes)?;
            sample.label.map_or(Ok(()), |label| put("cls", label.to_string().as_bytes()))
        };
        put_all().map_err(|e| unwritten(&partial(&self.folder, &self.name), &e))?;
        self.index = self.index.take().filter(|_| !sample.key.contains(char::is_whitespace)).map(|index| index + &members.join(" ") + "\n");
        self.images += 1;
        self.shrunk += sample.shrunk as usize;
        Ok(())
    }

    /// Ends the archive, has the disk keep it, writes its index, and gives it its name.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self) -> Result<Entry, DataError> {
        let (partial, whole) = (partial(&self.folder, &self.name), self.folder.join(&self.name));
        let mut finish = || {
            self.archive.finish()?;
            let file = &mut self.archive.get_mut().file;
            file.flush()?;
            file.get_ref().sync_all()
        };
        finish().map_err(|e| unwritten(&partial, &e))?;
        if let Some(lines) = &self.index {
            let index = format!("v1.2 {}\n{lines}", self.images);
            put(&self.folder, &self.name.replace(".tar", ".idx"), index.as_bytes())?;
        }
        fs::rename(&partial, &whole).map_err(|e| unwritten(&partial, &e))?;
        sync_folder(&self.folder);
        let written = self.archive.get_ref();
        let sha256 = sums::hex(written.hash.clone().finalize());
        Ok(Entry { file: self.name.clone(), bytes: written.bytes, images: self.images, shrunk: self.shrunk, sha256 })
    }
}

impl Drop for Shard {
    /// What is not whole is of no use, and on a full disk in the way.
    fn drop(&mut self) {
        let _ = fs::remove_file(partial(&self.folder, &self.name));
    }
}

fn partial(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.partial"))
}
