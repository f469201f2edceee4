//! Looking for the files below a folder, several folders at once; those that an index knows and that have not changed are not read again.

use crate::DataError;
use crate::index::Known;
use crate::patience::stays;
use crate::tree::{Changed, Folder, Listing, Names, Tree, os_name, parts};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const IMAGES: [&str; 11] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm"];
const ARCHIVES: [&str; 2] = ["tar", "parquet"];

/// Folders that are read at once: a network file system takes its time for each.
const READERS: usize = 8;

/// How often a long search says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A folder changed so shortly before it is listed may change again without its clock's moving on.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// All image files below a folder; hidden ones are passed over, loops of links are cut.
///
/// # Errors
/// A folder that is not there or cannot be read.
pub(crate) fn walk(root: &Path, known: Known) -> Result<Tree, DataError> {
    if !root.exists() {
        return Err(DataError::path(root, "is not there; check the path"));
    }
    fs::read_dir(root).map_err(|e| DataError::path(root, format!("cannot be read: {e}")))?;
    let search = Search { root, state: Mutex::default(), changed: Condvar::new(), known: Mutex::new(known) };
    let mut links = BTreeSet::new();
    let mut next = Some(Vec::new());
    // Real folders first, links after all of them, each by name: which path of a folder is taken must not depend on the file system.
    while let Some(top) = next {
        links.append(&mut search.all_below(top));
        next = links.pop_first().map(|parts: Vec<Vec<u8>>| parts.join(&b'/'));
    }
    let state = search.state.into_inner().unwrap_or_default();
    if state.said.is_some() {
        tracing::info!("{}: {} images in {} folders", root.display(), state.images, state.folders.len());
    }
    Ok(Tree::new(state.folders))
}

struct Search<'a> {
    root: &'a Path,
    state: Mutex<State>,
    /// Told when there are more folders to read, or none will come.
    changed: Condvar,
    known: Mutex<Known>,
}

#[derive(Default)]
struct State {
    /// Paths still to be read.
    waiting: Vec<Vec<u8>>,
    /// How many are being read.
    reading: usize,
    /// Links to folders, by the parts of their paths.
    links: BTreeSet<Vec<Vec<u8>>>,
    seen: HashSet<Identity>,
    folders: Vec<Folder>,
    images: usize,
    began: Option<Instant>,
    /// When it was last said how far the search is.
    said: Option<Instant>,
}

impl Search<'_> {
    /// Reads a folder and all real folders below it; gives the links to folders that it met.
    fn all_below(&self, top: Vec<u8>) -> BTreeSet<Vec<Vec<u8>>> {
        if let Ok(mut state) = self.state.lock() {
            state.waiting.push(top);
            state.began.get_or_insert_with(Instant::now);
        }
        std::thread::scope(|scope| (0..READERS).for_each(|_| drop(scope.spawn(|| self.read_folders()))));
        self.state.lock().map(|mut state| std::mem::take(&mut state.links)).unwrap_or_default()
    }

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
                state.say(self.root);
            }
            state.reading -= 1;
            self.changed.notify_all();
        }
    }

    /// The next folder to read; none when all are read.
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
            state = self.changed.wait(state).ok()?;
        }
    }

    /// What a folder holds, unless it was met under another path or cannot be read.
    fn read(&self, path: &[u8]) -> Option<Listing> {
        let folder = self.root.join(os_name(path));
        let metadata = fs::metadata(&folder).ok();
        let identity = identity(&folder, metadata.as_ref());
        if !self.state.lock().ok()?.seen.insert(identity) {
            return None;
        }
        let changed = metadata.and_then(|metadata| changed(&metadata));
        let known = self.known.lock().ok().and_then(|mut known| known.take(path));
        if let Some(known) = known.filter(|known| changed.is_some() && known.changed == changed) {
            return Some(known);
        }
        list_again(&folder, changed).map_err(|e| tracing::warn!("{}: passed over, cannot be read: {e}", folder.display())).ok()
    }
}

impl State {
    fn say(&mut self, root: &Path) {
        if self.said.or(self.began).is_some_and(|last| last.elapsed() >= SAY_EVERY) {
            tracing::info!("{}: {} images in {} folders so far", root.display(), self.images, self.folders.len());
            self.said = Some(Instant::now());
        }
    }
}

/// Reads one folder, and again where a disk or a network fails in the midst of it.
fn list_again(folder: &Path, changed: Option<Changed>) -> std::io::Result<Listing> {
    for wait in [100, 500, 2000] {
        match list(folder, changed) {
            Err(e) if !stays(e.kind()) => std::thread::sleep(Duration::from_millis(wait)),
            done => return done,
        }
    }
    list(folder, changed)
}

/// Reads one folder.
fn list(folder: &Path, changed: Option<Changed>) -> std::io::Result<Listing> {
    let mut names: [Vec<Vec<u8>>; 4] = Default::default();
    let mut dangling = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // What a folder's entry is costs nothing to know; where a link leads has to be asked.
        let kind = entry.file_type().ok();
        let is_link = kind.is_some_and(|kind| kind.is_symlink());
        let to = if is_link { fs::metadata(entry.path()).ok().map(|to| to.file_type()) } else { kind };
        dangling |= to.is_none();
        // What is neither, a pipe or a device, might never end.
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
    Ok(Listing { changed: changed.filter(|&changed| lies_back(changed) && !dangling), images, archives, folders, links })
}

/// What tells a folder apart, whatever path leads to it.
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

fn changed(metadata: &Metadata) -> Option<Changed> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()))
}

/// Whether a folder's last change lies so far back that a later one would show.
fn lies_back((seconds, nanoseconds): Changed) -> bool {
    let changed = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds);
    // Some file systems give every folder the beginning of time.
    changed > CLOCK_STEP && SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| changed + CLOCK_STEP < now)
}

/// A path with `/` between its parts, whatever the system has.
pub(crate) fn slashed(path: &Path) -> String {
    let joined = path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    if path.is_absolute() { joined.replacen("//", "/", 1) } else { joined }
}

/// Whether a name is an image's, by its ending.
pub(crate) fn is_image(path: &Path) -> bool {
    ends_in(path, &IMAGES)
}

/// Whether a name is that of an archive of images that a folder may hold several of.
pub(crate) fn is_archive(path: &Path) -> bool {
    ends_in(path, &ARCHIVES)
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|e| endings.iter().any(|ending| e.eq_ignore_ascii_case(ending)))
}
