//! Errors of the readers of the file formats.

use std::io;

/// Reason why a file cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file ends too early.
    Truncated,
    /// The file is inconsistent, for this reason.
    Damaged(String),
    /// The file is of another kind. The text is the rest of a sentence that begins with the path.
    Unsupported(String),
    /// The system failed to read the file.
    Io(io::Error),
}

impl ReadError {
    /// Makes a [`ReadError::Damaged`].
    pub fn damaged(why: impl Into<String>) -> ReadError {
        ReadError::Damaged(why.into())
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::Truncated } else { ReadError::Io(error) }
    }
}
