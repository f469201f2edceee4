//! Reading of the format of `torch.save` since PyTorch 1.6: a zip archive with one folder that
//! contains the pickle (`data.pkl`) and each storage (`data/KEY`). Entries are not compressed, so a
//! storage is a range of the file's bytes.

use super::array::Storage;
use super::input::Input;
use super::parsed::{LARGEST_PICKLE, ParsedFile};
use super::pickle::Pickle;
use super::read_error::ReadError;
use super::torch_tensors::{self, StorageId};
use crate::interop::read::escape::printable;
use std::cell::Cell;
use std::io::{Read, Seek, SeekFrom};
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, ZipReadOptions};

/// Reads everything but the storages.
pub(super) fn read(input: &mut Input) -> Result<ParsedFile, ReadError> {
    let length = input.length();
    let left = Cell::new(LARGEST_DIRECTORY);
    let archive = ZipArchive::with_config(Config { archive_offset: ArchiveOffset::Known(0) }, Limited { input, left: &left })?;
    left.set(u64::MAX);
    if archive.has_duplicate_names() {
        return Err(ReadError::damaged("its archive has two entries of one name"));
    }
    let folder = folder(&archive)?;
    let mut archive = Archive { archive, folder, length };
    if archive.has("constants.pkl") || archive.has_folder("code") {
        return Err(ReadError::Unsupported(
            "is a TorchScript archive, which contains a program; load it with torch.jit.load and save only its tensors: \
             torch.save(model.state_dict(), ...)"
                .to_string(),
        ));
    }
    if archive.has("byteorder") && archive.content("byteorder", 16)? != b"little" {
        return Err(ReadError::Unsupported(
            "was saved on a big-endian machine; load it in PyTorch and save it again on this one".to_string(),
        ));
    }
    let bytes = archive.content("data.pkl", LARGEST_PICKLE)?;
    let pickle = Pickle::parse(&bytes)?;
    torch_tensors::collect(&pickle, &mut |storage| archive.place(storage))
}

/// Largest directory of an archive that is read, in bytes: some hundred thousand entries.
const LARGEST_DIRECTORY: u64 = 32 << 20;

/// Returns the name of the archive's single folder.
fn folder<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String, ReadError> {
    let mut folder = None;
    let mut is_numpy = false;
    for name in archive.file_names_raw() {
        is_numpy |= name.ends_with(b".npy");
        let Some(prefix) = name.strip_suffix(b"/data.pkl").filter(|prefix| !prefix.contains(&b'/')) else { continue };
        let prefix = String::from_utf8(prefix.to_vec()).map_err(|_| ReadError::damaged("the name of its archive's folder is not UTF-8"))?;
        if folder.replace(prefix).is_some() {
            return Err(ReadError::damaged("its archive has two folders with a data.pkl"));
        }
    }
    folder.ok_or_else(|| {
        ReadError::Unsupported(if is_numpy {
            "is an archive of NumPy arrays (.npz); save them as safetensors, or with torch.save as a dict of tensors".to_string()
        } else {
            "is a zip archive that torch.save did not write (it has no data.pkl); if it contains the weights, unpack it first".to_string()
        })
    })
}

struct Archive<'a> {
    archive: ZipArchive<Limited<'a>>,
    folder: String,
    /// Length of the file in bytes.
    length: u64,
}

impl Archive<'_> {
    fn has(&self, name: &str) -> bool {
        self.index(name).is_some()
    }

    fn has_folder(&self, name: &str) -> bool {
        let start = format!("{}/{name}/", self.folder);
        self.archive.file_names_raw().any(|name| name.starts_with(start.as_bytes()))
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.archive.index_for_name_raw(format!("{}/{name}", self.folder).as_bytes())
    }

    /// Reads an entry of at most `largest` bytes. Its checksum is not verified, because
    /// `torch.serialization.set_crc32_options(False)` writes wrong ones.
    fn content(&mut self, name: &str, largest: u64) -> Result<Vec<u8>, ReadError> {
        let index = self.index(name).ok_or_else(|| ReadError::Damaged(format!("its archive has no entry {name}")))?;
        let storage = self.entry(index, name)?;
        if storage.length > largest {
            return Err(ReadError::Damaged(format!("the entry {name} is larger than any that torch.save writes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(storage.length).map_err(|_| ReadError::Truncated)?);
        let entry = self.archive.by_index_with_options(index, ZipReadOptions::new().ignore_crc32(true))?;
        entry.take(storage.length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == storage.length { Ok(bytes) } else { Err(ReadError::Truncated) }
    }

    /// Returns the range of an entry's bytes, which is inside the file.
    fn entry(&mut self, index: usize, name: &str) -> Result<Storage, ReadError> {
        let directory = self.archive.by_index_data(index)?;
        if directory.compression() != CompressionMethod::Stored || directory.encrypted() {
            return Err(ReadError::Unsupported(
                "is a compressed or encrypted archive, which torch.save does not write; load it in PyTorch and save it again with torch.save"
                    .to_string(),
            ));
        }
        let length = directory.size();
        if length != directory.compressed_size() {
            return Err(ReadError::Damaged(format!("the entry {} of its archive has two sizes", printable(name))));
        }
        let start = self.archive.by_index(index)?.data_start().ok_or(ReadError::Truncated)?;
        if start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(ReadError::Truncated);
        }
        Ok(Storage { start, length })
    }

    /// Returns the range of a storage's bytes.
    fn place(&mut self, storage: &StorageId<'_>) -> Result<Storage, ReadError> {
        /// PyTorch's keys are small numbers.
        const LONGEST_KEY: usize = 64;
        let wrong = |what: &str| ReadError::Damaged(format!("its storage {} {what}", printable(storage.key)));
        let length = storage.length().ok_or_else(|| wrong("is too large"))?;
        let name = format!("data/{}", storage.key);
        let Some(index) = (storage.key.len() <= LONGEST_KEY).then(|| self.index(&name)).flatten() else {
            return Err(wrong("is missing from its archive"));
        };
        let entry = self.entry(index, &name)?;
        if length > entry.length {
            return Err(wrong("is shorter than its tensors need"));
        }
        Ok(Storage { length, ..entry })
    }
}

/// Reader of the file with a limit on the bytes read. A directory could otherwise claim all of a
/// large file.
struct Limited<'a> {
    input: &'a mut Input,
    /// Bytes that may still be read.
    left: &'a Cell<u64>,
}

impl Read for Limited<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(into)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| std::io::Error::other("the archive's directory is too large"))?);
        Ok(read)
    }
}

impl Seek for Limited<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.input.seek(to)
    }
}

impl From<ZipError> for ReadError {
    fn from(error: ZipError) -> ReadError {
        match error {
            ZipError::Io(e) => e.into(),
            other => ReadError::Damaged(printable(&other.to_string())),
        }
    }
}
