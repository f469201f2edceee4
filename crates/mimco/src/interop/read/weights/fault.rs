//! What can be wrong with a file.

use std::io;

/// Why a file is not read.
#[derive(Debug)]
pub enum Fault {
    /// It ends before what it announces.
    Cut,
    /// It contradicts itself; what is wrong.
    Damaged(String),
    /// It is something that is not read; a sentence about the file that says what to do.
    Refused(String),
    /// The system does not give its bytes.
    Unreadable(io::Error),
}

impl Fault {
    pub fn damaged(why: impl Into<String>) -> Fault {
        Fault::Damaged(why.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        if error.kind() == io::ErrorKind::UnexpectedEof { Fault::Cut } else { Fault::Unreadable(error) }
    }
}
