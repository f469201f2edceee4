//! Finding the image files below a folder. Several folders are listed in parallel; folders that are
//! unchanged since they were cached are not listed again.

use crate::dataset::folder::file_tree::{FileTree, Folder, Listing, Mtime, Names, os_name, parts};
use crate::dataset::folder::listing_cache::CachedListings;
use crate::error::DataError;
use crate::path_names::{is_archive, is_image};
use crate::storage::retry::is_permanent;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Number of folders listed in parallel: a network file system has a latency for each.
const READERS: usize = 8;

/// Interval between progress messages of a long search.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// A folder modified this shortly before it is listed may change again without a new time.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// Finds all image files below a folder. Hidden files are skipped, and each folder is visited once
/// even if links form loops.
///
/// # Errors
/// Fails if the folder does not exist or cannot be read.
pub(crate) fn walk(root: &Path, cached: CachedListings) -> Result<FileTree, DataError> {
    if !root.exists() {
        return Err(DataError::path(root, "does not exist; check the path"));
    }
    fs::read_dir(root).map_err(|e| DataError::path(root, format!("cannot be read: {e}")))?;
    let search = Search { root, state: Mutex::default(), wake: Condvar::new(), cached: Mutex::new(cached) };
    let mut links = BTreeSet::new();
    let mut next = Some(Vec::new());
    // Real folders first, then links, each in the order of names: which of a folder's paths is used
    // must not depend on the file system.
    while let Some(top) = next {
        links.append(&mut search.all_below(top));
        next = links.pop_first().map(|parts: Vec<Vec<u8>>| parts.join(&b'/'));
    }
    let state = search.state.into_inner().unwrap_or_default();
    if state.logged.is_some() {
        tracing::info!("{}: {} images in {} folders", root.display(), state.images, state.folders.len());
    }
    Ok(FileTree::new(state.folders))
}

/// A search shared by several threads.
struct Search<'a> {
    root: &'a Path,
    state: Mutex<State>,
    /// Signals that there are more folders to list, or that the search is finished.
    wake: Condvar,
    cached: Mutex<CachedListings>,
}

#[derive(Default)]
struct State {
    /// Paths of folders still to be listed.
    waiting: Vec<Vec<u8>>,
    /// Number of folders being listed.
    reading: usize,
    /// Links to folders, as the components of their paths.
    links: BTreeSet<Vec<Vec<u8>>>,
    seen: HashSet<Identity>,
    folders: Vec<Folder>,
    images: usize,
    started: Option<Instant>,
    /// Time of the last progress message.
    logged: Option<Instant>,
}

impl Search<'_> {
    /// Lists a folder and all real folders below it; returns the links to folders among them.
    fn all_below(&self, top: Vec<u8>) -> BTreeSet<Vec<Vec<u8>>> {
        if let Ok(mut state) = self.state.lock() {
            state.waiting.push(top);
            state.started.get_or_insert_with(Instant::now);
        }
        std::thread::scope(|scope| (0..READERS).for_each(|_| drop(scope.spawn(|| self.read_folders()))));
        self.state.lock().map(|mut state| std::mem::take(&mut state.links)).unwrap_or_default()
    }

    /// Lists folders until none is left; runs on each thread.
    fn read_folders(&self) {
        while let Some(path) = self.take() {
            let found = self.read(&path);
            let Ok(mut state) = self.state.lock() else { return };
            if let Some(listing) = found {
                let below = |name: &[u8]| if path.is_empty() { name.to_vec() } else { [&path, name].join(&b'/') };
                state.waiting.extend(listing.folders.iter().map(below));
                state.links.extend(listing.links.iter().map(|name| parts(&below(name)).map(<[u8]>::to_vec).collect()));
                state.images += listing.images.len();
                state.folders.push(Folder { path, listing });
                state.log_progress(self.root);
            }
            state.reading -= 1;
            self.wake.notify_all();
        }
    }

    /// Returns the next folder to list, or `None` when all are listed.
    fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().ok()?;
        loop {
            if let Some(path) = state.waiting.pop() {
                state.reading += 1;
                return Some(path);
            }
            if state.reading == 0 {
                return None;
            }
            state = self.wake.wait(state).ok()?;
        }
    }

    /// Returns a folder's listing; `None` if it was visited under another path or cannot be read.
    fn read(&self, path: &[u8]) -> Option<Listing> {
        let folder = self.root.join(os_name(path));
        let metadata = fs::metadata(&folder).ok();
        let identity = identity(&folder, metadata.as_ref());
        if !self.state.lock().ok()?.seen.insert(identity) {
            return None;
        }
        let modified = metadata.and_then(|metadata| modified(&metadata));
        let cached = self.cached.lock().ok().and_then(|mut cached| cached.take(path));
        if let Some(cached) = cached.filter(|cached| modified.is_some() && cached.modified == modified) {
            return Some(cached);
        }
        list_with_retries(&folder, modified).map_err(|e| tracing::warn!("{}: skipped, cannot be read: {e}", folder.display())).ok()
    }
}

impl State {
    fn log_progress(&mut self, root: &Path) {
        if self.logged.or(self.started).is_some_and(|last| last.elapsed() >= LOG_INTERVAL) {
            tracing::info!("{}: {} images in {} folders so far", root.display(), self.images, self.folders.len());
            self.logged = Some(Instant::now());
        }
    }
}

/// Lists one folder, and retries if a disk or a network fails.
fn list_with_retries(folder: &Path, modified: Option<Mtime>) -> std::io::Result<Listing> {
    for wait in [100, 500, 2000] {
        match list(folder, modified) {
            Err(e) if !is_permanent(e.kind()) => std::thread::sleep(Duration::from_millis(wait)),
            done => return done,
        }
    }
    list(folder, modified)
}

/// Lists one folder.
fn list(folder: &Path, modified: Option<Mtime>) -> std::io::Result<Listing> {
    let mut names: [Vec<Vec<u8>>; 4] = Default::default();
    let mut dangling = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // The type of an entry is free; the target of a link costs a system call.
        let kind = entry.file_type().ok();
        let is_link = kind.is_some_and(|kind| kind.is_symlink());
        let to = if is_link { fs::metadata(entry.path()).ok().map(|to| to.file_type()) } else { kind };
        dangling |= to.is_none();
        // Pipes and devices are skipped, as reading them might never end.
        let which = match to {
            Some(to) if to.is_dir() => 2 + is_link as usize,
            Some(to) if !to.is_file() => continue,
            _ if is_image(Path::new(&name)) => 0,
            _ if is_archive(Path::new(&name)) => 1,
            _ => continue,
        };
        names[which].push(name.as_encoded_bytes().to_vec());
    }
    let [images, archives, folders, links] = names.map(|mut names| {
        names.sort_unstable();
        Names::from_iter(names)
    });
    Ok(Listing { modified: modified.filter(|&modified| mtime_is_settled(modified) && !dangling), images, archives, folders, links })
}

/// Identifies a folder independently of the path that leads to it.
type Identity = (u64, u64, PathBuf);

#[cfg(unix)]
fn identity(folder: &Path, metadata: Option<&Metadata>) -> Identity {
    use std::os::unix::fs::MetadataExt;
    metadata.map_or_else(|| (0, 0, folder.into()), |metadata| (metadata.dev(), metadata.ino(), PathBuf::new()))
}

#[cfg(not(unix))]
fn identity(folder: &Path, _: Option<&Metadata>) -> Identity {
    (0, 0, folder.canonicalize().unwrap_or_else(|_| folder.into()))
}

fn modified(metadata: &Metadata) -> Option<Mtime> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()))
}

/// Returns whether a modification time is old enough that a later change has another time.
fn mtime_is_settled((seconds, nanoseconds): Mtime) -> bool {
    let modified = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds);
    // Some file systems give every folder the time 0.
    modified > CLOCK_STEP && SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| modified + CLOCK_STEP < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::folder::listing_cache::{MIN_IMAGES, write};

    /// Creates enough files for a listing cache, in folders modified long ago.
    fn many(root: &Path) {
        for folder in ["a", "b", "b/c"] {
            fs::create_dir(root.join(folder)).unwrap();
            (0..MIN_IMAGES / 2).for_each(|i| drop(fs::File::create(root.join(format!("{folder}/{i}.png")))));
        }
        ["", "a", "b", "b/c"].iter().for_each(|folder| age(&root.join(folder)));
    }

    fn age(folder: &Path) {
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }

    fn paths(tree: &FileTree) -> Vec<PathBuf> {
        (0..tree.len()).map(|i| tree.path(i)).collect()
    }

    #[test]
    fn a_listing_cache_gives_the_same_files_and_modified_folders_are_listed_again() {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("set"), folder.path().join("index"));
        fs::create_dir(&root).unwrap();
        many(&root);
        let first = walk(&root, CachedListings::default()).unwrap();
        write(&file, &root, &first).unwrap();
        assert_eq!(paths(&walk(&root, CachedListings::read(&file, &root)).unwrap()), paths(&first));

        // A folder with an unchanged time is taken from the cache, even if its content has changed.
        fs::remove_file(root.join("a/7.png")).unwrap();
        age(&root.join("a"));
        let listing = CachedListings::read(&file, &root).take(b"a").unwrap();
        let cached = SystemTime::UNIX_EPOCH + Duration::new(listing.modified.unwrap().0 as u64, listing.modified.unwrap().1);
        fs::File::open(root.join("a")).unwrap().set_modified(cached).unwrap();
        assert_eq!(walk(&root, CachedListings::read(&file, &root)).unwrap().len(), first.len());

        // Others are listed again: one modified just now, whose time is not settled, and an older
        // one.
        fs::write(root.join("b/new.png"), "").unwrap();
        fs::remove_file(root.join("b/c/0.png")).unwrap();
        let again = walk(&root, CachedListings::read(&file, &root)).unwrap();
        assert!(paths(&again).contains(&"b/new.png".into()) && !paths(&again).contains(&"b/c/0.png".into()));
        write(&file, &root, &again).unwrap();
        assert_eq!(CachedListings::read(&file, &root).take(b"b").unwrap().modified, None);
        assert_eq!(paths(&walk(&root, CachedListings::read(&file, &root)).unwrap()), paths(&again));
    }
}
