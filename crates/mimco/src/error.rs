//! What can go wrong, in words for the person at the terminal.

use std::path::PathBuf;

/// An error of the library: what happened, to which file or setting, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting or argument that cannot be; exit code 2.
    #[error("{0}")]
    Setting(String),
    /// Images that cannot be had.
    #[error(transparent)]
    Data(#[from] mimco_data::DataError),
    /// A file that cannot be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened and what to do.
        what: String,
    },
    /// A training that cannot go on.
    #[error("{0}")]
    Training(String),
}

impl Error {
    /// Whether the command was misused, rather than failed.
    pub fn is_misuse(&self) -> bool {
        matches!(self, Error::Setting(_) | Error::Data(mimco_data::DataError::Misuse { .. }))
    }

    /// An error about a file.
    pub fn file(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> Error {
        Error::File { path: path.into(), what: what.to_string() }
    }
}
