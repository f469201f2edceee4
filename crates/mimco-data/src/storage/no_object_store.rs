//! The object store of a build without the feature `object-store`: opening one is an error.

use crate::error::DataError;
use crate::storage::url::redacted;
use std::io;
use std::ops::Range;

const ABSENT: &str = "this build does not support object stores; build with --features object-store";

/// An object store of this build, which cannot be opened.
#[derive(Clone)]
pub(crate) struct Store(());

impl Store {
    /// Opens no store.
    ///
    /// # Errors
    /// Always fails.
    pub(crate) fn open(url: &str) -> Result<Store, DataError> {
        Err(DataError::path(redacted(url), ABSENT))
    }

    /// Lists no objects.
    ///
    /// # Errors
    /// Always fails.
    pub(crate) fn list(&self) -> Result<Vec<(String, u64)>, DataError> {
        Err(DataError::path("", ABSENT))
    }

    /// Returns no size.
    ///
    /// # Errors
    /// Always fails.
    pub(crate) fn size(&self, _key: &str) -> io::Result<u64> {
        Err(io::Error::new(io::ErrorKind::Unsupported, ABSENT))
    }

    /// Reads no bytes.
    ///
    /// # Errors
    /// Always fails.
    pub(crate) fn read(&self, _key: &str, _range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, ABSENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_an_object_store_is_an_error_that_names_the_feature() {
        let error = Store::open("s3://bucket/x?hush").err().unwrap().to_string();
        assert_eq!(error, "s3://bucket/x: this build does not support object stores; build with --features object-store");
    }
}
