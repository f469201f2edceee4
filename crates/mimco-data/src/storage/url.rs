//! Files in object stores and on web servers: `s3://`, `gs://`, `az://`, `http(s)://`. Calls wait for their answer, and any thread may make them.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

#[cfg(feature = "object-store")]
pub(crate) use crate::object_stores::Store;

/// Bytes that a reader asks for at once.
pub(crate) const BLOCK: u64 = 4 << 20;

/// Whether a path is a URL: `SCHEME://`.
pub(crate) fn is_remote(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Whether a URL is one of Azure's, which may name the container as others name the user: `abfss://CONTAINER@ACCOUNT/FOLDER`.
pub(crate) fn names_container(scheme: &str) -> bool {
    ["az", "azure", "adl", "abfs", "abfss"].iter().any(|name| scheme.eq_ignore_ascii_case(name))
}

/// A URL as it may be shown, in one line: without user and password, and without the query and fragment, which may hold a signature.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    // A web browser's slashes may be more than two, or lean backward.
    let web = scheme.to_ascii_lowercase().starts_with("http");
    let rest = if web { rest.trim_start_matches(['/', '\\']) } else { rest };
    let (host, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let host = match host.rsplit_once('@') {
        Some((user, host)) if names_container(scheme) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        Some((_, host)) => host.to_string(),
        // A password that holds a slash, `?` or `#` ends the host for a URL, and no port is known from it.
        None if host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !web || !(port.ends_with(']') || port.bytes().all(|b| b.is_ascii_digit()))) =>
        {
            return format!("{scheme}://...");
        }
        None => host.to_string(),
    };
    format!("{scheme}://{host}{path}").escape_debug().to_string()
}

#[cfg(not(feature = "object-store"))]
const ABSENT: &str = "this build has no object stores; build with --features object-store";

/// What a build without object stores has for one; none is ever made.
#[cfg(not(feature = "object-store"))]
#[derive(Clone)]
pub(crate) struct Store(());

#[cfg(not(feature = "object-store"))]
impl Store {
    /// # Errors
    /// Always.
    pub(crate) fn open(url: &str) -> Result<Store, crate::DataError> {
        Err(crate::DataError::path(shown(url), ABSENT))
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, u64)>, crate::DataError> {
        Err(crate::DataError::path("", ABSENT))
    }

    pub(crate) fn size(&self, _key: &str) -> io::Result<u64> {
        Err(io::Error::new(io::ErrorKind::Unsupported, ABSENT))
    }

    pub(crate) fn read(&self, _key: &str, _range: Option<std::ops::Range<u64>>) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, ABSENT))
    }
}

impl Store {
    /// An object as a file that is read forward: blocks of 4 MiB are fetched as they are asked for, one request each, and what is passed over by
    /// seeking is not.
    ///
    /// # Errors
    /// As [`Store::size`]; its reads fail as [`Store::read`] does, and may be tried again.
    pub(crate) fn reader(&self, key: &str) -> io::Result<ObjectReader> {
        let size = self.size(key)?;
        Ok(ObjectReader { store: self.clone(), key: key.to_string(), size, at: 0, first: 0, block: Vec::new() })
    }
}

/// An object read as a file is; see [`Store::reader`].
pub(crate) struct ObjectReader {
    store: Store,
    key: String,
    /// Its bytes.
    size: u64,
    /// The next byte to read.
    at: u64,
    /// Where `block` begins.
    first: u64,
    /// What was fetched last.
    block: Vec<u8>,
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || out.is_empty() {
            return Ok(0);
        }
        if !(self.first..self.first + self.block.len() as u64).contains(&self.at) {
            let end = self.size.min(self.at.saturating_add(BLOCK));
            self.block = self.store.read(&self.key, Some(self.at..end))?;
            self.first = self.at;
        }
        let held = self.block.get((self.at - self.first) as usize..).unwrap_or_default();
        let count = held.len().min(out.len());
        out[..count].copy_from_slice(&held[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seeks before the first byte"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_known_and_shown_without_its_secrets() {
        for (path, remote) in
            [("s3://b/x", true), ("https://h", true), ("a/b", false), ("/s3:/x", false), ("://x", false), ("a b://x", false), ("", false)]
        {
            assert_eq!(is_remote(Path::new(path)), remote, "{path}");
        }
        let urls = [
            ("s3://bucket/a b/ü@1.tar", "s3://bucket/a b/ü@1.tar"),
            ("https://me:hush@host:80/x", "https://host:80/x"),
            ("https://hush@host/x@y", "https://host/x@y"),
            ("https:///me:hush@host/x", "https://host/x"),
            ("HTTP://\\me:hush@host/x", "HTTP://host/x"),
            ("https://host/x?signature=hush", "https://host/x"),
            ("https://me:hu/sh@host/x", "https://..."),
            ("s3://KEY:12/hush@bucket/x", "s3://..."),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
            ("http://[::1]/x", "http://[::1]/x"),
            ("abfss://images:hush@account/x", "abfss://images@account/x"),
            ("file:///a@b/c", "file:///a@b/c"),
            ("gs://b/a\nb", "gs://b/a\\nb"),
        ];
        for (url, expected) in urls {
            assert_eq!(shown(url), expected);
        }
    }

    #[cfg(not(feature = "object-store"))]
    #[test]
    fn a_build_without_stores_says_so() {
        let error = Store::open("s3://bucket/x?hush").err().unwrap().to_string();
        assert_eq!(error, "s3://bucket/x: this build has no object stores; build with --features object-store");
    }
}
