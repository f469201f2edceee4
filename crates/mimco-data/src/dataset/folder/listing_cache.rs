//! An index of a folder's files beside a run, so that a run that is taken up again need not look for millions of files anew: what each folder
//! held and when it had last changed. A folder that has changed since is read again.

use crate::source::Fnv;
use crate::tree::{Folder, Listing, Names, Tree};
use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Begins the file, with the number of its form.
const MAGIC: &[u8; 16] = b"mimco index 1\n\0\0";

/// Fewer images than this are found at once, so nothing is kept.
const WORTH_KEEPING: usize = 10_000;

/// What an index knows of the folders below a root, by their paths.
#[derive(Default)]
pub(crate) struct Known(HashMap<Vec<u8>, Listing>);

impl Known {
    /// The index of `root` in a file; nothing where there is none, or it is of another folder or damaged.
    pub fn read(file: &Path, root: &Path) -> Known {
        let folders = fs::read(file).ok().and_then(|bytes| parse(&bytes, &key(root)));
        Known(folders.unwrap_or_default())
    }

    /// What a folder held.
    pub fn take(&mut self, path: &[u8]) -> Option<Listing> {
        self.0.remove(path)
    }
}

/// Writes the index of a large tree, unless just this lies there.
///
/// # Errors
/// Where the file cannot be written.
pub(crate) fn write(file: &Path, root: &Path, tree: &Tree) -> io::Result<()> {
    if tree.len() < WORTH_KEEPING {
        return Ok(());
    }
    let known = Known::read(file, root).0;
    let same = |folder: &Folder| known.get(&folder.path).is_some_and(|listing| *listing == folder.listing);
    if known.len() == tree.folders().len() && tree.folders().iter().all(same) {
        return Ok(());
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
    let written = write_all(&partial, root, tree).and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_all(file: &Path, root: &Path, tree: &Tree) -> io::Result<()> {
    let mut out = Summed { out: BufWriter::new(fs::File::create(file)?), sum: Fnv::default() };
    out.write_all(MAGIC)?;
    out.bytes(&key(root))?;
    out.number(tree.folders().len() as u64)?;
    for Folder { path, listing } in tree.folders() {
        out.bytes(path)?;
        let (seconds, nanoseconds) = listing.changed.unwrap_or((i64::MIN, 0));
        out.number(seconds as u64)?;
        out.number(nanoseconds as u64)?;
        for names in [&listing.images, &listing.archives, &listing.folders, &listing.links] {
            out.number(names.len() as u64)?;
            names.iter().try_for_each(|name| out.bytes(name))?;
        }
    }
    let sum = out.sum.0;
    out.number(sum)?;
    out.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// A root as an index names it.
fn key(root: &Path) -> Vec<u8> {
    root.canonicalize().unwrap_or_else(|_| root.into()).as_os_str().as_encoded_bytes().to_vec()
}

/// Sums up what goes through it.
struct Summed<W> {
    out: W,
    sum: Fnv,
}

impl<W: Write> Summed<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.add(bytes);
        self.out.write_all(bytes)
    }

    /// A number in seven bits a byte, the lowest first; all but the last have the eighth bit.
    fn number(&mut self, mut number: u64) -> io::Result<()> {
        while number >= 0x80 {
            self.write_all(&[number as u8 | 0x80])?;
            number >>= 7;
        }
        self.write_all(&[number as u8])
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len() as u64)?;
        self.write_all(bytes)
    }
}

fn parse(bytes: &[u8], root: &[u8]) -> Option<HashMap<Vec<u8>, Listing>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    if take(&mut rest)? != root {
        return None;
    }
    let mut folders = HashMap::new();
    for _ in 0..number(&mut rest)? {
        let path = take(&mut rest)?.to_vec();
        let (seconds, nanoseconds) = (number(&mut rest)? as i64, u32::try_from(number(&mut rest)?).ok()?);
        let mut names = || (0..number(&mut rest)?).map(|_| take(&mut rest)).collect::<Option<Names>>();
        let (images, archives, folders_below, links) = (names()?, names()?, names()?, names()?);
        let changed = Some((seconds, nanoseconds)).filter(|_| seconds != i64::MIN);
        folders.insert(path, Listing { changed, images, archives, folders: folders_below, links });
    }
    let mut sum = Fnv::default();
    sum.add(&bytes[..bytes.len() - rest.len()]);
    (number(&mut rest)? == sum.0 && rest.is_empty()).then_some(folders)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folders::walk;
    use std::time::{Duration, SystemTime};

    /// A folder of as many files as are worth an index, last changed long ago.
    fn many(root: &Path) {
        for folder in ["a", "b", "b/c"] {
            fs::create_dir(root.join(folder)).unwrap();
            (0..WORTH_KEEPING / 2).for_each(|i| drop(fs::File::create(root.join(format!("{folder}/{i}.png")))));
        }
        ["", "a", "b", "b/c"].iter().for_each(|folder| age(&root.join(folder)));
    }

    fn age(folder: &Path) {
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }

    fn paths(tree: &Tree) -> Vec<PathBuf> {
        (0..tree.len()).map(|i| tree.path(i)).collect()
    }

    #[test]
    fn a_kept_index_gives_the_same_files_and_changed_folders_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("set"), folder.path().join("index"));
        fs::create_dir(&root).unwrap();
        many(&root);
        let first = walk(&root, Known::default()).unwrap();
        write(&file, &root, &first).unwrap();
        assert_eq!(paths(&walk(&root, Known::read(&file, &root)).unwrap()), paths(&first));

        // A folder that says it has not changed is taken from the index; here it has, behind its clock's back.
        fs::remove_file(root.join("a/7.png")).unwrap();
        age(&root.join("a"));
        let listing = Known::read(&file, &root).take(b"a").unwrap();
        let claimed = SystemTime::UNIX_EPOCH + Duration::new(listing.changed.unwrap().0 as u64, listing.changed.unwrap().1);
        fs::File::open(root.join("a")).unwrap().set_modified(claimed).unwrap();
        assert_eq!(walk(&root, Known::read(&file, &root)).unwrap().len(), first.len());

        // Others are read again: one changed just now, so the clock cannot be relied on, and one a while ago.
        fs::write(root.join("b/new.png"), "").unwrap();
        fs::remove_file(root.join("b/c/0.png")).unwrap();
        let again = walk(&root, Known::read(&file, &root)).unwrap();
        assert!(paths(&again).contains(&"b/new.png".into()) && !paths(&again).contains(&"b/c/0.png".into()));
        write(&file, &root, &again).unwrap();
        assert_eq!(Known::read(&file, &root).take(b"b").unwrap().changed, None);
        assert_eq!(paths(&walk(&root, Known::read(&file, &root)).unwrap()), paths(&again));
    }

    #[test]
    fn a_damaged_or_foreign_index_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("set"), folder.path().join("index"));
        fs::create_dir(&root).unwrap();
        let names = || (0..WORTH_KEEPING).map(|i| i.to_string()).collect();
        let tree = Tree::new(vec![Folder { path: Vec::new(), listing: Listing { images: names(), ..Listing::default() } }]);
        write(&file, &root, &tree).unwrap();
        let knows = |root: &Path| Known::read(&file, root).take(b"").is_some();
        assert!(knows(&root) && !knows(folder.path()));
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(997) {
            fs::write(&file, &whole[..at]).unwrap();
            assert!(!knows(&root), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&file, changed).unwrap();
            assert!(!knows(&root), "changed at {at}");
        }
        let tree = Tree::new(vec![Folder { path: Vec::new(), listing: Listing::default() }]);
        let small = folder.path().join("small");
        write(&small, &root, &tree).unwrap();
        assert!(!small.exists());
    }
}
