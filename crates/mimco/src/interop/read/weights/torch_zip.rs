//! What `torch.save` writes since PyTorch 1.6: a zip archive with a folder that holds the pickle (`data.pkl`) and each storage (`data/KEY`), stored
//! as they are, so a storage's bytes are found in the file itself.

use super::array::Storage;
use super::fault::Fault;
use super::input::Input;
use super::names::{self, StorageId};
use super::parsed::{LARGEST_PICKLE, ParsedFile};
use super::pickle::Pickle;
use crate::interop::read::escape::printable;
use std::cell::Cell;
use std::io::{Read, Seek, SeekFrom};
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, ZipReadOptions};

pub(super) fn read(input: &mut Input) -> Result<ParsedFile, Fault> {
    let length = input.length();
    let left = Cell::new(LARGEST_DIRECTORY);
    let archive = ZipArchive::with_config(Config { archive_offset: ArchiveOffset::Known(0) }, Limited { input, left: &left })?;
    left.set(u64::MAX);
    if archive.has_duplicate_names() {
        return Err(Fault::damaged("its archive has two entries of one name"));
    }
    let folder = folder(&archive)?;
    let mut archive = Archive { archive, folder, length };
    if archive.has("constants.pkl") || archive.has_folder("code") {
        return Err(Fault::Refused(
            "is a TorchScript archive, which holds a program; load it with torch.jit.load and save its tensors alone: \
             torch.save(model.state_dict(), ...)"
                .to_string(),
        ));
    }
    if archive.has("byteorder") && archive.content("byteorder", 16)? != b"little" {
        return Err(Fault::Refused("was saved on a big-endian machine; load it in PyTorch and save it again on this one".to_string()));
    }
    let bytes = archive.content("data.pkl", LARGEST_PICKLE)?;
    let pickle = Pickle::parse(&bytes)?;
    names::collect(&pickle, &mut |storage| archive.place(storage))
}

/// What the archive's directory may take: some hundred thousand entries.
const LARGEST_DIRECTORY: u64 = 32 << 20;

/// The folder that all is in.
fn folder<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String, Fault> {
    let mut folder = None;
    let mut is_numpy = false;
    for name in archive.file_names_raw() {
        is_numpy |= name.ends_with(b".npy");
        let Some(prefix) = name.strip_suffix(b"/data.pkl").filter(|prefix| !prefix.contains(&b'/')) else { continue };
        let prefix = String::from_utf8(prefix.to_vec()).map_err(|_| Fault::damaged("its archive's folder has no readable name"))?;
        if folder.replace(prefix).is_some() {
            return Err(Fault::damaged("its archive has two folders with a data.pkl"));
        }
    }
    folder.ok_or_else(|| {
        Fault::Refused(if is_numpy {
            "is an archive of NumPy arrays (.npz); save them as safetensors, or with torch.save as a dict of tensors".to_string()
        } else {
            "is a zip archive, but none that torch.save wrote (it has no data.pkl); if the weights are packed in it, unpack it first"
                .to_string()
        })
    })
}

struct Archive<'a> {
    archive: ZipArchive<Limited<'a>>,
    folder: String,
    /// The file's bytes.
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

    /// A small entry's bytes. Their checksum is not looked at, since `torch.serialization.set_crc32_options(False)` leaves it wrong.
    fn content(&mut self, name: &str, largest: u64) -> Result<Vec<u8>, Fault> {
        let index = self.index(name).ok_or_else(|| Fault::Damaged(format!("its archive has no entry {name}")))?;
        let storage = self.entry(index, name)?;
        if storage.length > largest {
            return Err(Fault::Damaged(format!("the entry {name} is larger than any that torch.save writes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(storage.length).map_err(|_| Fault::Cut)?);
        let entry = self.archive.by_index_with_options(index, ZipReadOptions::new().ignore_crc32(true))?;
        entry.take(storage.length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == storage.length { Ok(bytes) } else { Err(Fault::Cut) }
    }

    /// Where an entry's bytes lie; they are inside the file.
    fn entry(&mut self, index: usize, name: &str) -> Result<Storage, Fault> {
        let directory = self.archive.by_index_data(index)?;
        if directory.compression() != CompressionMethod::Stored || directory.encrypted() {
            return Err(Fault::Refused(
                "is a compressed or encrypted archive, which torch.save does not write; load it in PyTorch and save it again with torch.save"
                    .to_string(),
            ));
        }
        let length = directory.size();
        if length != directory.compressed_size() {
            return Err(Fault::Damaged(format!("the entry {} of its archive has two sizes", printable(name))));
        }
        let start = self.archive.by_index(index)?.data_start().ok_or(Fault::Cut)?;
        if start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Fault::Cut);
        }
        Ok(Storage { start, length })
    }

    fn place(&mut self, storage: &StorageId<'_>) -> Result<Storage, Fault> {
        /// PyTorch counts its storages.
        const LONGEST_KEY: usize = 64;
        let wrong = |what: &str| Fault::Damaged(format!("its storage {} {what}", printable(storage.key)));
        let length = storage.length().ok_or_else(|| wrong("has more bytes than can be"))?;
        let name = format!("data/{}", storage.key);
        let Some(index) = (storage.key.len() <= LONGEST_KEY).then(|| self.index(&name)).flatten() else {
            return Err(wrong("is not in its archive"));
        };
        let entry = self.entry(index, &name)?;
        if length > entry.length {
            return Err(wrong("is shorter than its tensors need"));
        }
        Ok(Storage { length, ..entry })
    }
}

/// The file, to a reader that may take only so much of it: an archive's directory could claim all of a large file.
struct Limited<'a> {
    input: &'a mut Input,
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

impl From<ZipError> for Fault {
    fn from(error: ZipError) -> Fault {
        match error {
            ZipError::Io(e) => e.into(),
            other => Fault::Damaged(printable(&other.to_string())),
        }
    }
}
