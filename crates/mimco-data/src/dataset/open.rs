//! Opening a dataset: the kind is detected from what is found at the path.

use crate::dataset::archive::{self, Shards};
use crate::dataset::folder::Files;
use crate::dataset::folder::file_tree::{FileTree, Folder, Listing, Names, parts};
use crate::dataset::folder::listing_cache::CachedListings;
use crate::dataset::folder::walk::walk;
use crate::dataset::in_memory::{self, Split};
use crate::dataset::parquet::ParquetFiles;
use crate::dataset::{Dataset, ImageSource};
use crate::error::DataError;
use crate::path_names::{ends_in, is_archive, is_image, slashed};
use crate::storage::Storage;
use crate::storage::object_store::Store;
use crate::storage::url::redacted;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LOOKED_FOR: &str =
    "looked for .jpg .jpeg .png .webp .bmp .tif .tiff .gif .ppm .pgm .pnm, .tar and .zip archives, .parquet, CIFAR .bin and IDX files";

impl Dataset {
    /// Opens images without labels.
    ///
    /// `path` is a folder with images at any depth, a list of files (`.txt`, one path per line,
    /// relative to the list), shards (`name-{000..127}.tar`, or a folder that contains only
    /// shards), Parquet files, a zip archive, a CIFAR binary file or folder, or an IDX file or
    /// folder. A folder, shards and Parquet files may also be URLs in an object store.
    ///
    /// # Errors
    /// Fails if the path does not exist, cannot be read, or contains no images.
    pub fn open_unlabelled(path: &Path) -> Result<Dataset, DataError> {
        Dataset::open(path, false, None)
    }

    /// Opens images with labels: class folders (a class is the first folder below `path`), shards
    /// with `.cls` members or class folders, Parquet files with a label column, CIFAR binary files,
    /// or IDX files with their label files.
    ///
    /// # Errors
    /// Fails as [`Dataset::open_unlabelled`] does, and if there are no labels.
    pub fn open_labelled(path: &Path) -> Result<Dataset, DataError> {
        Dataset::open(path, true, None)
    }

    /// Opens images as [`Dataset::open_unlabelled`] or [`Dataset::open_labelled`] does. A folder's
    /// listings are taken from `listing_cache` (see [`Dataset::write_listing_cache`]) if it is
    /// given and they are unchanged.
    ///
    /// # Errors
    /// Fails as these functions do.
    pub fn open(path: &Path, labelled: bool, listing_cache: Option<&Path>) -> Result<Dataset, DataError> {
        if let Some(in_memory) = in_memory::open(path, labelled, Split::All)? {
            return Ok(in_memory);
        }
        if let Some((folder, archives)) = archive::named(path)? {
            return open_archives(path, Storage::open(&folder)?, archives, labelled);
        }
        let storage = Storage::open(path)?;
        let tree = match storage.store() {
            Some(store) => listed(store)?,
            None if path.is_file() => return open_list(path, labelled),
            None => walk(path, listing_cache.map_or_else(CachedListings::default, |cache| CachedListings::read(cache, path)))?,
        };
        if tree.len() > 0 {
            return if labelled { open_class_folders(storage, tree) } else { Ok(open_files(storage, tree)) };
        }
        let archives: Vec<PathBuf> = tree.archives().collect();
        if archives.is_empty() { Err(no_images(path)) } else { open_archives(path, storage, archives, labelled) }
    }

    /// Opens the training and validation sets of a path that has both: `train/` and `val/` or
    /// `validation/` with class folders, CIFAR's training and test files, or IDX files of both.
    /// Returns `None` for any other path, and for folders that cannot be opened as labelled sets of
    /// the same classes, which is logged. `listing_cache` is that of the training images.
    pub fn splits(path: &Path, listing_cache: Option<&Path>) -> Option<(Dataset, Dataset)> {
        if let (Ok(Some(train)), Ok(Some(val))) = (in_memory::open(path, true, Split::Train), in_memory::open(path, true, Split::Test)) {
            return Some((train, val));
        }
        let train = path.join("train");
        let val = ["val", "validation"].iter().map(|name| path.join(name)).find(|p| p.is_dir());
        let val = val.filter(|_| train.is_dir())?;
        let (Ok(train), Ok(val)) = (Dataset::open(&train, true, listing_cache), Dataset::open_labelled(&val)) else {
            tracing::warn!(
                "{}: its train and validation folders contain no class folders; all images below it are used as one unlabelled set",
                path.display()
            );
            return None;
        };
        match val.with_classes(train.classes()) {
            Ok(val) => Some((train, val)),
            Err(error) => {
                tracing::warn!("{error}; labels are ignored, and all images below {} are used as one unlabelled set", path.display());
                None
            }
        }
    }
}

fn no_images(path: &Path) -> DataError {
    DataError::path(path, format!("contains no images ({LOOKED_FOR}); give a folder that does"))
}

fn open_files(storage: Storage, tree: FileTree) -> Dataset {
    Dataset::new(Files { storage, tree, labels: None }, Vec::new())
}

/// Opens files whose class is the first component of their folder's path.
fn open_class_folders(storage: Storage, tree: FileTree) -> Result<Dataset, DataError> {
    let class = |folder: usize| parts(&tree.folders()[folder].path).next();
    let folders = 0..tree.folders().len();
    let with_images = folders.clone().filter(|&folder| !tree.folders()[folder].listing.images.is_empty());
    let classes: Vec<&[u8]> = with_images.filter_map(class).collect::<BTreeSet<_>>().into_iter().collect();
    if classes.is_empty() {
        return Err(DataError::path(storage.path(), "has no class folders with images; labels come from folders: PATH/CLASS/image.jpg"));
    }
    let label = |class: &[u8]| classes.binary_search(&class).ok().map(|index| index as u32);
    let labels: Vec<Option<u32>> = folders.map(|folder| class(folder).and_then(label)).collect();
    let inside: Vec<u32> = (0..tree.len() as u32).filter(|&file| labels[tree.folder_of(file as usize)].is_some()).collect();
    let outside = tree.len() - inside.len();
    let classes = classes.into_iter().map(|class| String::from_utf8_lossy(class).into_owned()).collect();
    let labels = Some(labels.into_iter().map(Option::unwrap_or_default).collect());
    let all = Dataset::new(Files { storage, tree, labels }, classes);
    if outside == 0 {
        return Ok(all);
    }
    tracing::warn!("{}: {outside} images outside its class folders are left out", all.location());
    Ok(all.subset(&inside))
}

/// Opens shards or Parquet files. They are never mixed, as an epoch shuffles them differently.
fn open_archives(path: &Path, storage: Storage, mut archives: Vec<PathBuf>, labelled: bool) -> Result<Dataset, DataError> {
    let is_parquet = |archive: &PathBuf| ends_in(archive, &["parquet"]);
    let location = if storage.is_remote() { redacted(&path.to_string_lossy()) } else { path.display().to_string() };
    if !archives.iter().any(is_parquet) {
        let mut shards = Shards::open(location, storage, archives, labelled)?;
        if shards.len() == 0 {
            return Err(no_images(path));
        }
        let classes = if labelled { shards.read_labels(path)? } else { Vec::new() };
        return Ok(Dataset::new(shards, classes));
    }
    let all = archives.len();
    archives.retain(is_parquet);
    if archives.len() < all {
        tracing::warn!("{location}: {} tar archives next to its Parquet files are left out", all - archives.len());
    }
    let train: Vec<PathBuf> = archives.iter().filter(|path| path.to_string_lossy().starts_with("train-")).cloned().collect();
    if !train.is_empty() && train.len() < archives.len() {
        tracing::info!("{location}: reading its Parquet files named train-*; {} others are left out", archives.len() - train.len());
        archives = train;
    }
    let mut parquet = ParquetFiles::open(location, storage, archives)?;
    if parquet.len() == 0 {
        return Err(no_images(path));
    }
    let classes = if labelled { parquet.read_labels()? } else { Some(Vec::new()) };
    let classes = classes.ok_or_else(|| DataError::path(path, "has no labels; a class is a column `label` of integers"))?;
    Ok(Dataset::new(parquet, classes))
}

/// Returns the files of an object store as a tree of folders.
fn listed(store: &Store) -> Result<FileTree, DataError> {
    let mut folders: BTreeMap<Vec<u8>, Listing> = BTreeMap::new();
    for (key, _) in store.list()? {
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", &key));
        if parts(key.as_bytes()).any(|part| part.starts_with(b".")) {
            continue;
        }
        let listing = folders.entry(folder.into()).or_default();
        match Path::new(name) {
            file if is_image(file) => listing.images.push(name.as_bytes()),
            file if is_archive(file) => listing.archives.push(name.as_bytes()),
            _ => {}
        }
    }
    Ok(FileTree::new(folders.into_iter().map(|(path, listing)| Folder { path, listing }).collect()))
}

/// Opens the files that a text file lists.
fn open_list(path: &Path, labelled: bool) -> Result<Dataset, DataError> {
    if labelled {
        return Err(DataError::path(path, "is a file, which has no labels; give a folder of class folders"));
    }
    if !ends_in(path, &["txt"]) {
        return Err(DataError::path(path, format!("is neither a folder nor a .txt list of files ({LOOKED_FOR})")));
    }
    let text = fs::read_to_string(path).map_err(|e| DataError::path(path, format!("cannot be read: {e}")))?;
    let root = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|l| !l.is_empty());
    let names = Names::from_iter(lines.map(|line| slashed(root.join(line).strip_prefix(root).unwrap_or(Path::new(line)))));
    if names.is_empty() { Err(no_images(path)) } else { Ok(open_files(Storage::folder(root), FileTree::of_list(names))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::RgbImage::from_pixel(2, 2, image::Rgb([name.len() as u8, 0, 0]))
                .save_with_format(path, image::ImageFormat::Png)
                .unwrap();
        }
    }

    #[test]
    fn folders_are_read_in_the_order_of_their_components() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["b/1.png", "a/deep/er/2.PNG", "a-b/3.png", "a/1.png", "top.png", ".hidden/x.png", "a/.x.png"]);
        fs::write(folder.path().join("notes.txt"), "no image").unwrap();
        let unlabelled = Dataset::open_unlabelled(folder.path()).unwrap();
        let names: Vec<String> = (0..unlabelled.len()).map(|i| unlabelled.name(i)).collect();
        assert_eq!(names, ["a/1.png", "a/deep/er/2.PNG", "a-b/3.png", "b/1.png", "top.png"]);
        let labelled = Dataset::open_labelled(folder.path()).unwrap();
        assert_eq!(labelled.classes(), ["a", "a-b", "b"]);
        assert_eq!((0..labelled.len()).map(|i| labelled.label(i).unwrap()).collect::<Vec<_>>(), [0, 0, 1, 2]);
        assert_eq!(labelled.subset(&[2]).name(0), "a-b/3.png");
        assert_ne!(unlabelled.digest(), labelled.digest());
    }

    #[test]
    fn train_and_validation_folders_are_splits() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["train/x/1.png", "train/y/2.png", "validation/x/3.png", "validation/y/4.png", "test/x/5.png"]);
        let (train, val) = Dataset::splits(folder.path(), None).unwrap();
        assert_eq!((train.len(), val.len(), val.name(1)), (2, 2, "y/4.png".to_string()));
        assert!(Dataset::splits(&folder.path().join("train"), None).is_none());
        touch(folder.path(), &["few/y/6.png", "odd/z/7.png"]);
        let labelled = |name: &str| Dataset::open_labelled(&folder.path().join(name)).unwrap();
        let few = labelled("few").with_classes(train.classes()).unwrap();
        assert_eq!((few.label(0), few.classes()), (Some(1), train.classes()));
        assert!(labelled("odd").with_classes(train.classes()).err().unwrap().to_string().contains("`z`"));
    }

    #[test]
    fn a_list_names_files_relative_to_it() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["p/1.png", "p/2.png"]);
        fs::write(folder.path().join("list.txt"), "p/2.png\n\n p/1.png \n").unwrap();
        let list = Dataset::open_unlabelled(&folder.path().join("list.txt")).unwrap();
        assert_eq!((list.len(), list.name(0)), (2, "p/2.png".to_string()));
        assert_eq!(list.load(0).unwrap().width, 2);
    }

    #[test]
    fn a_path_without_images_is_an_error_that_lists_the_known_formats() {
        let folder = tempfile::tempdir().unwrap();
        for error in [
            Dataset::open_unlabelled(folder.path()),
            Dataset::open_unlabelled(&folder.path().join("gone")),
            Dataset::open_labelled(folder.path()),
        ] {
            let error = error.err().unwrap().to_string();
            assert!(error.contains(&*folder.path().to_string_lossy()) && !error.contains('\n'), "{error}");
        }
    }
}
