//! The error type of the crate.

use std::path::PathBuf;

/// An error about images. The text states which image or path, what happened, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DataError {
    /// A file or folder that cannot be read or written.
    #[error("{}: {what}", path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What happened and what to do.
        what: String,
    },
    /// An image that cannot be decoded.
    #[error("{name}: {what}")]
    Image {
        /// The image's name in its dataset.
        name: String,
        /// What is wrong with the image.
        what: String,
    },
    /// An image whose bytes cannot be read.
    #[error("{name}: {what}")]
    Unread {
        /// The image's name in its dataset.
        name: String,
        /// What happened.
        what: String,
        /// Whether a later attempt may succeed: a disk or network failed, or the folder is
        /// unavailable.
        is_transient: bool,
    },
    /// Arguments that do not fit the files they refer to.
    #[error("{}: {what}", path.display())]
    Misuse {
        /// The file or folder.
        path: PathBuf,
        /// What does not fit and what to do.
        what: String,
    },
    /// Too many images of a dataset cannot be read.
    #[error("{0}")]
    Broken(String),
}

impl DataError {
    /// Returns a [`DataError::Path`].
    pub(crate) fn path(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> DataError {
        DataError::Path { path: path.into(), what: what.to_string() }
    }
}
