//! Files of weights as others save them, seen in one way: safetensors and the two formats of PyTorch. Only tensors are read, and texts beside
//! them. No object that a pickle describes is ever built, and nothing that it names is called.

mod array;
mod dtype;
mod fault;
mod input;
mod names;
mod parsed;
mod pickle;
mod safetensors;
#[cfg(test)]
mod tests;
mod torch_old;
mod torch_zip;

pub use array::Array;
pub use dtype::Dtype;

use super::escape::printable;
use crate::Error;
use fault::Fault;
use input::Input;
use parsed::ParsedFile;
use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header of JSON, then the numbers.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: a zip archive.
    TorchZip,
    /// What it wrote before: pickles, then the storages.
    TorchOld,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Format::Safetensors { "safetensors" } else { "PyTorch" })
    }
}

/// An open file of weights, of which only the description has been read.
///
/// What is nested has names joined by `/`: a file that `torch.save({"epoch": 3, "model": {"head.bias": b}}, ...)` wrote has the tensor
/// `model/head.bias` and the text `epoch`. An item of a list goes by its index, and a tensor saved alone by `tensor`.
pub struct Weights {
    /// How it is written.
    pub format: Format,
    /// Tensors by name; their elements are read when asked for.
    pub tensors: BTreeMap<String, Array>,
    /// Strings, numbers, and truth values (`True`, `False`) that stand beside the tensors; the metadata of a safetensors file.
    pub texts: BTreeMap<String, String>,
    /// What was passed over and how often: tensors of integers and the like by PyTorch's name of their type (`int64`), objects by their class
    /// (`argparse.Namespace`).
    pub left_out: BTreeMap<String, usize>,
    path: PathBuf,
    input: Mutex<Input>,
}

impl Weights {
    /// Opens a file and reads what it says of its tensors, none of their elements.
    ///
    /// # Errors
    /// A file that is missing, cut short or something else, in one line that says what to do.
    pub fn open(path: &Path) -> Result<Weights, Error> {
        let cannot = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}; check the path"));
        // A pipe would be waited for, a device read without end.
        if !std::fs::metadata(path).map_err(cannot)?.is_file() {
            return Err(Error::file(path, "is not a file; give the checkpoint's file"));
        }
        let file = std::fs::File::open(path).map_err(cannot)?;
        Weights::from_source(path, file)
    }

    /// [`Weights::open`] of anything that can be read; `path` is what errors call it.
    ///
    /// # Errors
    /// As there.
    pub fn from_source(path: &Path, source: impl Read + Seek + Send + 'static) -> Result<Weights, Error> {
        let read = || -> Result<Weights, (Option<Format>, Fault)> {
            let mut input = Input::new(source).map_err(|e| (None, e.into()))?;
            let format = recognise(&mut input).map_err(|e| (None, e))?;
            let found = match format {
                Format::Safetensors => safetensors::read(&mut input),
                Format::TorchZip => torch_zip::read(&mut input),
                Format::TorchOld => torch_old::read(&mut input),
            };
            let ParsedFile { tensors, texts, left_out } = found.map_err(|e| (Some(format), e))?;
            Ok(Weights { format, tensors, texts, left_out, path: path.to_path_buf(), input: Mutex::new(input) })
        };
        read().map_err(|(format, fault)| {
            let kind = format.map_or(String::new(), |f| format!("{f} "));
            Error::file(
                path,
                match fault {
                    Fault::Cut => format!("is not a whole {kind}file (it ends too early); fetch or save it again"),
                    Fault::Damaged(why) => format!("is not a whole {kind}file ({why}); fetch or save it again"),
                    Fault::Refused(what) => what,
                    Fault::Unreadable(e) => format!("cannot be read: {e}; check the path"),
                },
            )
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One tensor's elements, row by row, whatever they are stored in; what is not finite is passed on.
    ///
    /// # Errors
    /// A name that is not there; a file that changed or went away meanwhile.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        let Some(array) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, format!("has no tensor named {}; it has {}", printable(name), self.tensors.len())));
        };
        // A lock that a panic poisoned still guards a readable file: each reading begins with its own seek.
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        array.read(&mut input).map_err(|fault| {
            let why = match fault {
                Fault::Cut => "the file has become shorter".to_string(),
                Fault::Damaged(why) | Fault::Refused(why) => why,
                Fault::Unreadable(e) => e.to_string(),
            };
            Error::file(&self.path, format!("tensor {} cannot be read ({why}); see that the file stays in place", printable(name)))
        })
    }
}

/// Tells the formats apart by their first bytes, and names what is often mistaken for one.
fn recognise(input: &mut Input) -> Result<Format, Fault> {
    let head = input.bytes(0, input.length().min(512))?;
    let refused = match &head[..] {
        // The brace comes first: a header of 640 bytes begins like a pickle, one of 67 MB like a zip archive.
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => return Ok(Format::Safetensors),
        [b'P', b'K', 3, 4, ..] => return Ok(Format::TorchZip),
        [0x80, ..] => return Ok(Format::TorchOld),
        [] => "is empty; fetch or save it again",
        [0x1f, 0x8b, ..] => "is packed with gzip; unpack it with gunzip first",
        [0x89, b'H', b'D', b'F', ..] => "is an HDF5 file, as Keras writes them; load it there and save its weights as safetensors",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "is an array of NumPy, not weights with names; save them as safetensors",
        _ if head.starts_with(b"version https://git-lfs") => {
            "is a pointer of git-lfs that stands for the file; fetch the file itself with git lfs pull"
        }
        _ if head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start().starts_with(b"<") => {
            "is a web page, not weights, so the download went wrong; fetch the file by its direct link"
        }
        _ if head.get(257..262) == Some(b"ustar") => {
            "is a tar archive, as the first versions of PyTorch wrote; load it in PyTorch and save it again with torch.save(model.state_dict(), ...)"
        }
        [_, _, _, _, _, _, _, _, b'{', ..] => return Ok(Format::Safetensors), // with a header longer than any file, as will be told
        _ => "is neither a safetensors file nor one that torch.save wrote; give the checkpoint itself, whole",
    };
    Err(Fault::Refused(refused.to_string()))
}
