//! The names of a set's files, kept small: ten million of them fit into memory.

use std::path::{Path, PathBuf};

/// Names one after the other; a name costs its bytes and eight more.
#[derive(Clone, Default, Debug, PartialEq)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    ends: Vec<u64>,
}

impl Names {
    pub fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len() as u64);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

impl<B: AsRef<[u8]>> FromIterator<B> for Names {
    fn from_iter<I: IntoIterator<Item = B>>(all: I) -> Names {
        let mut names = Names::default();
        all.into_iter().for_each(|name| names.push(name.as_ref()));
        names.bytes.shrink_to_fit();
        names.ends.shrink_to_fit();
        names
    }
}

/// When a folder was changed: seconds and nanoseconds.
pub(crate) type Changed = (i64, u32);

/// What lies in one folder, each kind in the bytewise order of its names.
#[derive(Clone, Default, Debug, PartialEq)]
pub(crate) struct Listing {
    /// When it was last changed before it was listed; `None` where the clock cannot tell a later change from that one.
    pub changed: Option<Changed>,
    /// Image files.
    pub images: Names,
    /// Tar and parquet files.
    pub archives: Names,
    /// Folders.
    pub folders: Names,
    /// Links to folders.
    pub links: Names,
}

/// A folder below the root.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Its path below the root, `/` between its parts; empty for the root itself.
    pub path: Vec<u8>,
    pub listing: Listing,
}

/// Files of one folder that follow each other in the order of the whole.
#[derive(Debug)]
struct Run {
    /// Place of the first among all files.
    first: usize,
    /// Which folder.
    folder: usize,
    /// Place of the first in the folder.
    from: usize,
}

/// All image files below a folder, in the bytewise order of their paths' components.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    folders: Vec<Folder>,
    runs: Vec<Run>,
    len: usize,
}

impl Tree {
    /// Orders the files of folders, which come as they were found; the first is the root.
    pub fn new(folders: Vec<Folder>) -> Tree {
        let mut tree = Tree { folders, ..Tree::default() };
        let mut order: Vec<usize> = (0..tree.folders.len()).collect();
        order.sort_unstable_by(|&a, &b| parts(&tree.folders[a].path).cmp(parts(&tree.folders[b].path)));
        let mut order = order.into_iter().peekable();
        while let Some(top) = order.next() {
            tree.lay_out(top, &mut order);
        }
        tree
    }

    /// A folder's files, and between them, where their names put them, those of the folders below it.
    fn lay_out(&mut self, top: usize, order: &mut std::iter::Peekable<std::vec::IntoIter<usize>>) {
        // Folders that are begun and not ended, each with the files that are laid out: a stack, since paths may be deep.
        let mut open = vec![(top, 0)];
        while let Some((folder, done)) = open.pop() {
            let path = &self.folders[folder].path;
            let images = &self.folders[folder].listing.images;
            let below = order.peek().copied().filter(|&next| is_below(&self.folders[next].path, path));
            let until = match below {
                None => images.len(),
                Some(next) => {
                    let name = &self.folders[next].path[if path.is_empty() { 0 } else { path.len() + 1 }..];
                    let name = name.split(|&b| b == b'/').next().unwrap_or_default();
                    done + (done..images.len()).take_while(|&i| images.get(i) < name).count()
                }
            };
            if until > done {
                self.runs.push(Run { first: self.len, folder, from: done });
                self.len += until - done;
            }
            if let Some(next) = below {
                order.next();
                open.push((folder, until));
                open.push((next, 0));
            }
        }
    }

    /// Files in the order of a list; their names may be paths.
    pub fn of_list(names: Names) -> Tree {
        let len = names.len();
        let listing = Listing { images: names, ..Listing::default() };
        let runs = vec![Run { first: 0, folder: 0, from: 0 }];
        Tree { folders: vec![Folder { path: Vec::new(), listing }], runs, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// The folder of a file and its place in it.
    fn place(&self, index: usize) -> (usize, usize) {
        let run = &self.runs[self.runs.partition_point(|run| run.first <= index) - 1];
        (run.folder, run.from + index - run.first)
    }

    /// Which folder a file is in.
    pub fn folder_of(&self, index: usize) -> usize {
        self.place(index).0
    }

    /// A file's path below the root, with `/`, bytes that are no Unicode replaced.
    pub fn name(&self, index: usize) -> String {
        let (folder, at) = self.place(index);
        let folder = &self.folders[folder];
        let name = String::from_utf8_lossy(folder.listing.images.get(at));
        if folder.path.is_empty() { name.into_owned() } else { format!("{}/{name}", String::from_utf8_lossy(&folder.path)) }
    }

    /// Paths of the archives in the root itself.
    pub fn archives(&self) -> impl Iterator<Item = PathBuf> {
        let root = self.folders.iter().find(|folder| folder.path.is_empty());
        root.into_iter().flat_map(|root| root.listing.archives.iter().map(|name| os_name(name).into()))
    }

    /// A file's path below the root, to open it.
    pub fn path(&self, index: usize) -> PathBuf {
        let (folder, at) = self.place(index);
        let folder = &self.folders[folder];
        Path::new(&os_name(&folder.path)).join(os_name(folder.listing.images.get(at)))
    }
}

/// The parts of a path.
pub(crate) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// A name's bytes as the system's.
#[cfg(unix)]
pub(crate) fn os_name(bytes: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// A name's bytes as the system's; a name that is no Unicode is not found.
#[cfg(not(unix))]
pub(crate) fn os_name(bytes: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str, images: &[&str]) -> Folder {
        Folder { path: path.into(), listing: Listing { images: images.iter().collect(), ..Listing::default() } }
    }

    fn paths(tree: &Tree) -> Vec<String> {
        (0..tree.len()).map(|i| tree.path(i).to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn files_stand_in_the_order_of_their_paths_components() {
        let folders = vec![
            folder("", &["a", "b.png", "z.png"]),
            folder("b-c", &["1.png"]),
            folder("b", &["2.png", "x.png"]),
            folder("b/deep/er", &["3.png"]),
            folder("b/deep", &[]),
            folder("zz", &["4.png"]),
        ];
        let tree = Tree::new(folders);
        let found = paths(&tree);
        let mut sorted: Vec<PathBuf> = found.iter().map(PathBuf::from).collect();
        sorted.sort(); // the standard library compares components
        assert_eq!(found, sorted.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>());
        assert_eq!(found, ["a", "b/2.png", "b/deep/er/3.png", "b/x.png", "b-c/1.png", "b.png", "z.png", "zz/4.png"]);
        assert_eq!(tree.folders()[tree.folder_of(3)].path, b"b");
    }

    #[test]
    fn a_list_keeps_its_order() {
        let tree = Tree::of_list(["p/2.png", "/abs/1.png"].iter().collect());
        assert_eq!(paths(&tree), ["p/2.png", "/abs/1.png"]);
    }
}
