//! The names of a dataset's files, stored compactly: ten million of them fit into memory.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// A list of names in one buffer. A name costs its bytes plus eight.
#[derive(Clone, Default, Debug, PartialEq)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    /// The end of each name in `bytes`.
    ends: Vec<u64>,
}

impl Names {
    /// Appends a name.
    pub fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len() as u64);
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the name at an index.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    /// Returns the names in order.
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

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        Ok(Vec::<&[u8]>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// A folder's modification time: seconds and nanoseconds since 1970.
pub(crate) type Mtime = (i64, u32);

/// The contents of one folder, each kind in the bytewise order of its names.
#[derive(Clone, Default, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// The folder's modification time before it was listed. `None` if a later change might have the
    /// same time.
    pub modified: Option<Mtime>,
    /// Image files.
    pub images: Names,
    /// Tar and Parquet files.
    pub archives: Names,
    /// Folders.
    pub folders: Names,
    /// Symbolic links to folders.
    pub links: Names,
}

/// A folder below the root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Folder {
    /// The path below the root with `/` between components; empty for the root itself.
    pub path: Vec<u8>,
    pub listing: Listing,
}

/// Consecutive files of one folder that are also consecutive in the tree.
#[derive(Debug)]
struct Run {
    /// Index of the first file in the tree.
    first: usize,
    /// Index of the folder.
    folder: usize,
    /// Index of the first file in the folder.
    from: usize,
}

/// All image files below a folder, in the bytewise order of their paths' components.
#[derive(Debug, Default)]
pub(crate) struct FileTree {
    folders: Vec<Folder>,
    runs: Vec<Run>,
    len: usize,
}

impl FileTree {
    /// Orders the files of these folders, which may come in any order.
    pub fn new(folders: Vec<Folder>) -> FileTree {
        let mut tree = FileTree { folders, ..FileTree::default() };
        let mut order: Vec<usize> = (0..tree.folders.len()).collect();
        order.sort_unstable_by(|&a, &b| parts(&tree.folders[a].path).cmp(parts(&tree.folders[b].path)));
        let mut order = order.into_iter().peekable();
        while let Some(top) = order.next() {
            tree.lay_out(top, &mut order);
        }
        tree
    }

    /// Appends a folder's files and, where their names sort, the files of the folders below it.
    fn lay_out(&mut self, top: usize, order: &mut std::iter::Peekable<std::vec::IntoIter<usize>>) {
        // Unfinished folders with the number of files already laid out; a stack, as paths may be
        // deep.
        let mut unfinished = vec![(top, 0)];
        while let Some((folder, done)) = unfinished.pop() {
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
                unfinished.push((folder, until));
                unfinished.push((next, 0));
            }
        }
    }

    /// Returns the files of a list in its order; their names may be paths.
    pub fn of_list(names: Names) -> FileTree {
        let len = names.len();
        let listing = Listing { images: names, ..Listing::default() };
        let runs = vec![Run { first: 0, folder: 0, from: 0 }];
        FileTree { folders: vec![Folder { path: Vec::new(), listing }], runs, len }
    }

    /// Returns the number of image files.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the folders.
    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// Returns the index of a file's folder and the file's index in it.
    fn locate(&self, index: usize) -> (usize, usize) {
        let run = &self.runs[self.runs.partition_point(|run| run.first <= index) - 1];
        (run.folder, run.from + index - run.first)
    }

    /// Returns the index of a file's folder.
    pub fn folder_of(&self, index: usize) -> usize {
        self.locate(index).0
    }

    /// Returns a file's path below the root with `/`; bytes that are not UTF-8 are replaced.
    pub fn name(&self, index: usize) -> String {
        let (folder, at) = self.locate(index);
        let folder = &self.folders[folder];
        let name = String::from_utf8_lossy(folder.listing.images.get(at));
        if folder.path.is_empty() { name.into_owned() } else { format!("{}/{name}", String::from_utf8_lossy(&folder.path)) }
    }

    /// Returns the paths of the archives in the root folder itself.
    pub fn archives(&self) -> impl Iterator<Item = PathBuf> {
        let root = self.folders.iter().find(|folder| folder.path.is_empty());
        root.into_iter().flat_map(|root| root.listing.archives.iter().map(|name| os_name(name).into()))
    }

    /// Returns a file's path below the root, for opening it.
    pub fn path(&self, index: usize) -> PathBuf {
        let (folder, at) = self.locate(index);
        let folder = &self.folders[folder];
        Path::new(&os_name(&folder.path)).join(os_name(folder.listing.images.get(at)))
    }
}

/// Returns the components of a path.
pub(crate) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

/// Returns whether a path is below a folder.
fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Converts a name's bytes to the platform's string type.
#[cfg(unix)]
pub(crate) fn os_name(bytes: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// Converts a name's bytes to the platform's string type; names that are not UTF-8 are not found.
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

    fn paths(tree: &FileTree) -> Vec<String> {
        (0..tree.len()).map(|i| tree.path(i).to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn files_are_in_the_order_of_their_paths_components() {
        let folders = vec![
            folder("", &["a", "b.png", "z.png"]),
            folder("b-c", &["1.png"]),
            folder("b", &["2.png", "x.png"]),
            folder("b/deep/er", &["3.png"]),
            folder("b/deep", &[]),
            folder("zz", &["4.png"]),
        ];
        let tree = FileTree::new(folders);
        let found = paths(&tree);
        let mut sorted: Vec<PathBuf> = found.iter().map(PathBuf::from).collect();
        sorted.sort(); // the standard library compares components
        assert_eq!(found, sorted.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>());
        assert_eq!(found, ["a", "b/2.png", "b/deep/er/3.png", "b/x.png", "b-c/1.png", "b.png", "z.png", "zz/4.png"]);
        assert_eq!(tree.folders()[tree.folder_of(3)].path, b"b");
    }

    #[test]
    fn a_list_keeps_its_order() {
        let tree = FileTree::of_list(["p/2.png", "/abs/1.png"].iter().collect());
        assert_eq!(paths(&tree), ["p/2.png", "/abs/1.png"]);
    }
}
