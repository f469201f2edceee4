//! A cache of folder listings, so that a resumed run does not list millions of files again.
//!
//! The cache contains each folder's names and modification time. A folder that was modified since
//! is listed again. The file is a magic number with the format's version, the root's path and the
//! folders as `postcard` encodes them, and the SHA-256 of those bytes.

use crate::atomic_file::AtomicFile;
use crate::dataset::folder::file_tree::{FileTree, Folder, Listing};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// First bytes of the file; the number is the version of the format.
const MAGIC: &[u8; 16] = b"mimco index 2\n\0\0";

/// Length of the SHA-256 at the end of the file, bytes.
const DIGEST: usize = 32;

/// Trees with fewer images are listed quickly, so no cache is written for them.
pub(super) const MIN_IMAGES: usize = 10_000;

/// The listings in a cache file, by folder path below the root.
#[derive(Default)]
pub(crate) struct CachedListings(HashMap<Vec<u8>, Listing>);

impl CachedListings {
    /// Reads the listings of the folders below `root`. The result is empty if the file is missing,
    /// damaged, of another version, or of another root.
    pub fn read(file: &Path, root: &Path) -> CachedListings {
        let listings = fs::read(file).ok().and_then(|bytes| parse(&bytes, &key(root)));
        CachedListings(listings.unwrap_or_default())
    }

    /// Removes and returns the listing of a folder.
    pub fn take(&mut self, path: &[u8]) -> Option<Listing> {
        self.0.remove(path)
    }
}

/// Writes the cache of a large tree, unless the file already has the same content.
///
/// # Errors
/// Fails if the file cannot be written.
pub(crate) fn write(file: &Path, root: &Path, tree: &FileTree) -> io::Result<()> {
    if tree.len() < MIN_IMAGES {
        return Ok(());
    }
    let cached = CachedListings::read(file, root).0;
    let same = |folder: &Folder| cached.get(&folder.path).is_some_and(|listing| *listing == folder.listing);
    if cached.len() == tree.folders().len() && tree.folders().iter().all(same) {
        return Ok(());
    }
    let mut out = Digested { out: AtomicFile::create(file)?, digest: Sha256::new() };
    out.out.write_all(MAGIC)?;
    postcard::to_io(&(key(root), tree.folders()), &mut out).map_err(io::Error::other)?;
    let Digested { mut out, digest } = out;
    out.write_all(&digest.finalize())?;
    out.publish()
}

/// Returns the bytes that identify a root folder.
fn key(root: &Path) -> Vec<u8> {
    root.canonicalize().unwrap_or_else(|_| root.into()).as_os_str().as_encoded_bytes().to_vec()
}

/// A writer that digests the bytes that it passes on.
struct Digested<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Parses a cache file; returns `None` if it is damaged or of another root.
fn parse(bytes: &[u8], root: &[u8]) -> Option<HashMap<Vec<u8>, Listing>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (content, digest) = rest.split_at_checked(rest.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(content).as_slice() != digest {
        return None;
    }
    let (of, folders): (&[u8], Vec<Folder>) = postcard::from_bytes(content).ok()?;
    (of == root).then(|| folders.into_iter().map(|folder| (folder.path, folder.listing)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_damaged_or_foreign_cache_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("set"), folder.path().join("index"));
        fs::create_dir(&root).unwrap();
        let names = || (0..MIN_IMAGES).map(|i| i.to_string()).collect();
        let tree = FileTree::new(vec![Folder { path: Vec::new(), listing: Listing { images: names(), ..Listing::default() } }]);
        write(&file, &root, &tree).unwrap();
        let is_cached = |root: &Path| CachedListings::read(&file, root).take(b"").is_some();
        assert!(is_cached(&root) && !is_cached(folder.path()));
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(997) {
            fs::write(&file, &whole[..at]).unwrap();
            assert!(!is_cached(&root), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&file, changed).unwrap();
            assert!(!is_cached(&root), "changed at {at}");
        }
        let tree = FileTree::new(vec![Folder { path: Vec::new(), listing: Listing::default() }]);
        let small = folder.path().join("small");
        write(&small, &root, &tree).unwrap();
        assert!(!small.exists());
    }

    /// Lists of names of any bytes.
    fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn listings_are_read_back_as_they_were_written(
            listings in prop::collection::vec((any::<Option<(i64, u32)>>(), names(), names(), names(), names()), 0..6),
        ) {
            let folders: Vec<Folder> = (0u8..).zip(&listings).map(|(number, (modified, images, archives, folders, links))| {
                let [images, archives, folders, links] = [images, archives, folders, links].map(|names| names.iter().collect());
                Folder { path: vec![number], listing: Listing { modified: *modified, images, archives, folders, links } }
            }).collect();
            let content = postcard::to_allocvec(&(b"root".to_vec(), &folders)).unwrap();
            let file = [&MAGIC[..], &content, &Sha256::digest(&content)].concat();
            let read = parse(&file, b"root").unwrap();
            prop_assert_eq!(read.len(), folders.len());
            for folder in &folders {
                prop_assert_eq!(&read[&folder.path], &folder.listing);
            }
            prop_assert!(parse(&file, b"other").is_none());
        }
    }
}
