//! Reading of weights from safetensors files and the two formats of PyTorch, through one interface.
//! Only tensors, and texts next to them, are read. No object in a pickle is built, and nothing that
//! a pickle names is called.
//!
//! Own code, because `pytorch-reader` 0.22 is less strict: a file of 1 KiB can make it allocate up
//! to 10 GiB, and of two tensors of one name it silently takes one.

mod array;
mod dtype;
mod input;
mod parsed;
mod pickle;
mod read_error;
mod safetensors;
#[cfg(test)]
mod tests;
mod torch_old;
mod torch_tensors;
mod torch_zip;

pub use array::Array;
pub use dtype::Dtype;

use super::escape::printable;
use crate::Error;
use input::Input;
use parsed::ParsedFile;
use read_error::ReadError;
use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Format of a file of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header of JSON, then the elements.
    Safetensors,
    /// Format of `torch.save` since PyTorch 1.6: a zip archive.
    TorchZip,
    /// Format of `torch.save` before PyTorch 1.6: pickles, then the storages.
    TorchOld,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Format::Safetensors { "safetensors" } else { "PyTorch" })
    }
}

/// Open file of weights, of which only the description has been read.
///
/// The names of nested values are joined by `/`: saving `{"epoch": 3, "model": {"head.bias": b}}`
/// gives the tensor `model/head.bias` and the text `epoch`. An item of a list has its index as its
/// name. A tensor that was saved alone has the name `tensor`.
pub struct Weights {
    /// Format of the file.
    pub format: Format,
    /// Tensors by name. [`Weights::read`] reads their elements.
    pub tensors: BTreeMap<String, Array>,
    /// Strings, numbers and truth values (`True`, `False`) next to the tensors; the metadata of a
    /// safetensors file.
    pub texts: BTreeMap<String, String>,
    /// Skipped contents and the number of their occurrences: tensors of integers and the like by
    /// PyTorch's name of their type (`int64`), objects by their class (`argparse.Namespace`).
    pub left_out: BTreeMap<String, usize>,
    path: PathBuf,
    input: Mutex<Input>,
}

impl Weights {
    /// Opens a file and reads the description of its tensors, but none of their elements.
    ///
    /// # Errors
    /// A file that is missing, truncated, damaged or of another kind. The message is one line that
    /// contains a remedy.
    pub fn open(path: &Path) -> Result<Weights, Error> {
        let cannot = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}; check the path"));
        // Opening a pipe would block, and reading a device would not end.
        if !std::fs::metadata(path).map_err(cannot)?.is_file() {
            return Err(Error::file(path, "is not a regular file; give the checkpoint's file"));
        }
        let file = std::fs::File::open(path).map_err(cannot)?;
        Weights::from_source(path, file)
    }

    /// Reads from any source as [`Weights::open`] does from a file. `path` is its name in errors.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn from_source(path: &Path, source: impl Read + Seek + Send + 'static) -> Result<Weights, Error> {
        let read = || -> Result<Weights, (Option<Format>, ReadError)> {
            let mut input = Input::new(source).map_err(|e| (None, e.into()))?;
            let format = detect_format(&mut input).map_err(|e| (None, e))?;
            let parsed = match format {
                Format::Safetensors => safetensors::read(&mut input),
                Format::TorchZip => torch_zip::read(&mut input),
                Format::TorchOld => torch_old::read(&mut input),
            };
            let ParsedFile { tensors, texts, left_out } = parsed.map_err(|e| (Some(format), e))?;
            Ok(Weights { format, tensors, texts, left_out, path: path.to_path_buf(), input: Mutex::new(input) })
        };
        read().map_err(|(format, error)| {
            let kind = format.map_or(String::new(), |f| format!("{f} "));
            Error::file(
                path,
                match error {
                    ReadError::Truncated => format!("is not a complete {kind}file (it ends too early); download or save it again"),
                    ReadError::Damaged(why) => format!("is not a valid {kind}file ({why}); download or save it again"),
                    ReadError::Unsupported(what) => what,
                    ReadError::Io(e) => format!("cannot be read: {e}; check the path"),
                },
            )
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a tensor's elements, row by row, converted to f32. They may be infinite or NaN.
    ///
    /// # Errors
    /// An unknown name, or a file that was changed or removed after it was opened.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        let Some(array) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, format!("has no tensor named {}; it has {}", printable(name), self.tensors.len())));
        };
        // After a panic the file is still readable, because each read begins with a seek.
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        array.read(&mut input).map_err(|error| {
            let why = match error {
                ReadError::Truncated => "the file was truncated".to_string(),
                ReadError::Damaged(why) | ReadError::Unsupported(why) => why,
                ReadError::Io(e) => e.to_string(),
            };
            Error::file(
                &self.path,
                format!("tensor {} cannot be read ({why}); make sure that the file is not changed meanwhile", printable(name)),
            )
        })
    }
}

/// Detects the format by the first bytes. Names other kinds of files that are often given instead.
fn detect_format(input: &mut Input) -> Result<Format, ReadError> {
    let head = input.bytes(0, input.length().min(512))?;
    let unsupported = match &head[..] {
        // This case precedes the next two: a header of 640 bytes begins like a pickle, one of 67 MB
        // like a zip archive.
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => return Ok(Format::Safetensors),
        [b'P', b'K', 3, 4, ..] => return Ok(Format::TorchZip),
        [0x80, ..] => return Ok(Format::TorchOld),
        [] => "is empty; download or save it again",
        [0x1f, 0x8b, ..] => "is compressed with gzip; unpack it with gunzip first",
        [0x89, b'H', b'D', b'F', ..] => "is an HDF5 file, as Keras writes; load it in Keras and save its weights as safetensors",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "is a NumPy array without tensor names; save the weights as safetensors",
        _ if head.starts_with(b"version https://git-lfs") => "is a git-lfs pointer to the file; get the file itself with git lfs pull",
        _ if head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start().starts_with(b"<") => {
            "is a web page, so the download failed; download the file by its direct link"
        }
        _ if head.get(257..262) == Some(b"ustar") => {
            "is a tar archive, as PyTorch before 0.1.10 wrote; load it in PyTorch and save it again with torch.save(model.state_dict(), ...)"
        }
        // The header is too long, which its reader reports.
        [_, _, _, _, _, _, _, _, b'{', ..] => return Ok(Format::Safetensors),
        _ => "is neither a safetensors file nor one that torch.save wrote; give the complete checkpoint",
    };
    Err(ReadError::Unsupported(unsupported.to_string()))
}
