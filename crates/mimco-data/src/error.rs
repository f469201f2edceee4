//! What can go wrong with images.

use std::path::PathBuf;

/// An error about images: which, what happened, what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DataError {
    /// A file or folder that cannot be read.
    #[error("{}: {what}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// What happened and what to do.
        what: String,
    },
    /// An image that cannot be decoded.
    #[error("{name}: {what}")]
    Image {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// An image whose bytes cannot be read.
    #[error("{name}: {what}")]
    Unread {
        /// Which.
        name: String,
        /// What happened.
        what: String,
        /// Whether it may be read later: a disk or a network failed, or its folder is away.
        passes: bool,
    },
    /// Arguments that do not fit what is there.
    #[error("{}: {what}", path.display())]
    Misuse {
        /// Where.
        path: PathBuf,
        /// What does not fit and what to do.
        what: String,
    },
    /// Too many images of a set cannot be read.
    #[error("{0}")]
    Broken(String),
}

impl DataError {
    pub(crate) fn path(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> DataError {
        DataError::Path { path: path.into(), what: what.to_string() }
    }
}
