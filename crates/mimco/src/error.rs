//! Errors of the library, worded for the person at the terminal.

use std::path::PathBuf;

/// An error of the library: what happened, to which file or setting, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An invalid setting or argument; exit code 2.
    #[error("{0}")]
    Setting(String),
    /// Images that cannot be read.
    #[error(transparent)]
    Data(#[from] mimco_data::DataError),
    /// A file that cannot be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What happened and what to do.
        what: String,
    },
    /// A training run or an evaluation that cannot continue.
    #[error("{0}")]
    Training(String),
}

impl Error {
    /// Returns true if the command was misused, false if it failed.
    pub fn is_misuse(&self) -> bool {
        matches!(self, Error::Setting(_) | Error::Data(mimco_data::DataError::Misuse { .. }))
    }

    /// Returns an error about a file: what happened and what to do.
    pub fn file(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> Error {
        Error::File { path: path.into(), what: what.to_string() }
    }
}
