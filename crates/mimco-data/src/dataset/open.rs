//! From a path to a set of images: what lies there tells what kind of set it is.

use crate::folders::{is_archive, is_image, slashed, walk};
use crate::formats::{self, Split};
use crate::index::Known;
use crate::parquet::Parquet;
use crate::place::Place;
use crate::remote::{Store, shown};
use crate::shards::{self as archives, Shards};
use crate::source::Images;
use crate::tree::{Folder, Listing, Names, Tree, parts};
use crate::{DataError, Dataset};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LOOKED_FOR: &str =
    "looked for .jpg .jpeg .png .webp .bmp .tif .tiff .gif .ppm .pgm .pnm, .tar and .zip archives, .parquet, CIFAR .bin and IDX files";

impl Dataset {
    /// Images without labels: a folder at any depth, a list of files (`.txt`, one a line, relative to the list), shards (`name-{000..127}.tar`, or
    /// a folder with nothing else), parquet files, a zip archive, a CIFAR binary file or folder, an IDX file or folder; of a folder, shards or parquet
    /// also the URL in an object store.
    ///
    /// # Errors
    /// A path that is not there, cannot be read, or holds no image.
    pub fn heap(path: &Path) -> Result<Dataset, DataError> {
        Dataset::open(path, false, None)
    }

    /// Images with labels: class folders (a class is the first folder below `path`), shards with `.cls` members or class folders, CIFAR binary,
    /// IDX with its labels.
    ///
    /// # Errors
    /// As [`Dataset::heap`], or where there are no labels.
    pub fn labelled(path: &Path) -> Result<Dataset, DataError> {
        Dataset::open(path, true, None)
    }

    /// [`Dataset::heap`] or [`Dataset::labelled`]; a folder's files as far as an index beside a run ([`Dataset::keep_index`]) knows them.
    ///
    /// # Errors
    /// As of these.
    pub fn open(path: &Path, labelled: bool, index: Option<&Path>) -> Result<Dataset, DataError> {
        if let Some(packed) = formats::open(path, labelled, Split::All)? {
            return Ok(packed);
        }
        if let Some((folder, archives)) = archives::named(path)? {
            return open_archives(path, Place::open(&folder)?, archives, labelled);
        }
        let place = Place::open(path)?;
        let tree = match place.store() {
            Some(store) => listed(store)?,
            None if path.is_file() => return open_list(path, labelled),
            None => walk(path, index.map_or_else(Known::default, |index| Known::read(index, path)))?,
        };
        if tree.len() > 0 {
            return if labelled { open_class_folders(place, tree) } else { Ok(open_files(place, tree)) };
        }
        let archives: Vec<PathBuf> = tree.archives().collect();
        if archives.is_empty() { Err(no_images(path)) } else { open_archives(path, place, archives, labelled) }
    }

    /// Training and validation sets, where `path` has `train/` and `val/` or `validation/` of class folders, CIFAR's training and test files,
    /// or IDX files of both. The index is that of the training images.
    ///
    /// # Errors
    /// Those of reading a packed set.
    pub fn splits(path: &Path, index: Option<&Path>) -> Result<Option<(Dataset, Dataset)>, DataError> {
        if let (Ok(Some(train)), Ok(Some(val))) = (formats::open(path, true, Split::Train), formats::open(path, true, Split::Test)) {
            return Ok(Some((train, val)));
        }
        let train = path.join("train");
        let val = ["val", "validation"].iter().map(|name| path.join(name)).find(|p| p.is_dir());
        let Some(val) = val.filter(|_| train.is_dir()) else { return Ok(None) };
        let (Ok(train), Ok(val)) = (Dataset::open(&train, true, index), Dataset::labelled(&val)) else {
            tracing::warn!(
                "{}: its train and validation folders hold no class folders, so all images below it are one heap",
                path.display()
            );
            return Ok(None);
        };
        match val.with_classes(train.classes()) {
            Ok(val) => Ok(Some((train, val))),
            Err(error) => {
                tracing::warn!("{error}; no labels are used, and all images below {} are one heap", path.display());
                Ok(None)
            }
        }
    }
}

fn no_images(path: &Path) -> DataError {
    DataError::path(path, format!("holds no images ({LOOKED_FOR}); give a folder that does"))
}

fn open_files(place: Place, tree: Tree) -> Dataset {
    Dataset::new(Images::Files { place, tree, labels: None }, Vec::new())
}

/// A class is the first part of a folder's path.
fn open_class_folders(place: Place, tree: Tree) -> Result<Dataset, DataError> {
    let class = |folder: usize| parts(&tree.folders()[folder].path).next();
    let folders = 0..tree.folders().len();
    let with_images = folders.clone().filter(|&folder| !tree.folders()[folder].listing.images.is_empty());
    let classes: Vec<&[u8]> = with_images.filter_map(class).collect::<BTreeSet<_>>().into_iter().collect();
    if classes.is_empty() {
        return Err(DataError::path(place.path(), "has no class folders with images; labels come from folders: PATH/CLASS/image.jpg"));
    }
    let label = |class: &[u8]| classes.binary_search(&class).ok().map(|place| place as u32);
    let labels: Vec<Option<u32>> = folders.map(|folder| class(folder).and_then(label)).collect();
    let inside: Vec<u32> = (0..tree.len() as u32).filter(|&file| labels[tree.folder_of(file as usize)].is_some()).collect();
    let outside = tree.len() - inside.len();
    let classes = classes.into_iter().map(|class| String::from_utf8_lossy(class).into_owned()).collect();
    let labels = Some(labels.into_iter().map(Option::unwrap_or_default).collect());
    let all = Dataset::new(Images::Files { place, tree, labels }, classes);
    if outside == 0 {
        return Ok(all);
    }
    tracing::warn!("{}: {outside} images outside its class folders are left out", all.place());
    Ok(all.subset(&inside))
}

/// Shards, or parquet files; not both, since an order mixes them in other ways.
fn open_archives(path: &Path, place: Place, mut archives: Vec<PathBuf>, labelled: bool) -> Result<Dataset, DataError> {
    let is_parquet = |archive: &PathBuf| archive.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
    let name = if place.is_far() { shown(&path.to_string_lossy()) } else { path.display().to_string() };
    if !archives.iter().any(is_parquet) {
        let shards = Shards::open(place, archives, labelled)?;
        if shards.len() == 0 {
            return Err(no_images(path));
        }
        let (labels, classes) = if labelled { Some(shards.labels(path)?) } else { None }.unzip();
        return Ok(Dataset::new(Images::Shards { name, shards, labels }, classes.unwrap_or_default()));
    }
    let all = archives.len();
    archives.retain(is_parquet);
    if archives.len() < all {
        tracing::warn!("{name}: {} tar archives beside its parquet files are left out", all - archives.len());
    }
    let train: Vec<PathBuf> = archives.iter().filter(|path| path.to_string_lossy().starts_with("train-")).cloned().collect();
    if !train.is_empty() && train.len() < archives.len() {
        tracing::info!("{name}: of its parquet files those named train-* are read, {} others are not", archives.len() - train.len());
        archives = train;
    }
    let parquet = Parquet::open(place, archives)?;
    if parquet.len() == 0 {
        return Err(no_images(path));
    }
    let labels = if labelled { parquet.labels()? } else { None };
    if labelled && labels.is_none() {
        return Err(DataError::path(path, "has no labels; a class is a column `label` of whole numbers"));
    }
    let (labels, classes) = match labels {
        Some(labels) => {
            let (labels, classes) = parquet.class_names().map_or_else(|| numbered(&labels), |names| (labels.clone(), names));
            (Some(labels), classes)
        }
        None => (None, Vec::new()),
    };
    Ok(Dataset::new(Images::Parquet { name, parquet, labels }, classes))
}

/// Classes named by their numbers, those that there are, and labels counted in them.
fn numbered(labels: &[u32]) -> (Vec<u32>, Vec<String>) {
    let numbers: Vec<u32> = labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let place = |label: &u32| numbers.binary_search(label).unwrap_or_default() as u32;
    (labels.iter().map(place).collect(), numbers.iter().map(u32::to_string).collect())
}

/// The files of an object store as those of a folder.
fn listed(store: &Store) -> Result<Tree, DataError> {
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
    Ok(Tree::new(folders.into_iter().map(|(path, listing)| Folder { path, listing }).collect()))
}

fn open_list(path: &Path, labelled: bool) -> Result<Dataset, DataError> {
    if labelled {
        return Err(DataError::path(path, "is a file, which has no labels; give a folder of class folders"));
    }
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
        return Err(DataError::path(path, format!("is neither a folder nor a .txt list of files ({LOOKED_FOR})")));
    }
    let text = fs::read_to_string(path).map_err(|e| DataError::path(path, format!("cannot be read: {e}")))?;
    let root = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|l| !l.is_empty());
    let names = Names::from_iter(lines.map(|line| slashed(root.join(line).strip_prefix(root).unwrap_or(Path::new(line)))));
    if names.is_empty() { Err(no_images(path)) } else { Ok(open_files(Place::folder(root), Tree::of_list(names))) }
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
        let heap = Dataset::heap(folder.path()).unwrap();
        let names: Vec<String> = (0..heap.len()).map(|i| heap.name(i)).collect();
        assert_eq!(names, ["a/1.png", "a/deep/er/2.PNG", "a-b/3.png", "b/1.png", "top.png"]);
        let labelled = Dataset::labelled(folder.path()).unwrap();
        assert_eq!(labelled.classes(), ["a", "a-b", "b"]);
        assert_eq!((0..labelled.len()).map(|i| labelled.label(i).unwrap()).collect::<Vec<_>>(), [0, 0, 1, 2]);
        assert_eq!(labelled.subset(&[2]).name(0), "a-b/3.png");
        assert_ne!(heap.digest(), labelled.digest());
    }

    #[test]
    fn train_and_validation_folders_are_splits() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["train/x/1.png", "train/y/2.png", "validation/x/3.png", "validation/y/4.png", "test/x/5.png"]);
        let (train, val) = Dataset::splits(folder.path(), None).unwrap().unwrap();
        assert_eq!((train.len(), val.len(), val.name(1)), (2, 2, "y/4.png".to_string()));
        assert!(Dataset::splits(&folder.path().join("train"), None).unwrap().is_none());
        touch(folder.path(), &["few/y/6.png", "odd/z/7.png"]);
        let labelled = |name: &str| Dataset::labelled(&folder.path().join(name)).unwrap();
        let few = labelled("few").with_classes(train.classes()).unwrap();
        assert_eq!((few.label(0), few.classes()), (Some(1), train.classes()));
        assert!(labelled("odd").with_classes(train.classes()).err().unwrap().to_string().contains("`z`"));
    }

    #[test]
    fn a_list_names_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["p/1.png", "p/2.png"]);
        fs::write(folder.path().join("list.txt"), "p/2.png\n\n p/1.png \n").unwrap();
        let list = Dataset::heap(&folder.path().join("list.txt")).unwrap();
        assert_eq!((list.len(), list.name(0)), (2, "p/2.png".to_string()));
        assert_eq!(list.load(0).unwrap().width, 2);
    }

    #[test]
    fn what_holds_no_images_is_an_error_that_says_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        for error in [Dataset::heap(folder.path()), Dataset::heap(&folder.path().join("gone")), Dataset::labelled(folder.path())] {
            let error = error.err().unwrap().to_string();
            assert!(error.contains(&*folder.path().to_string_lossy()) && !error.contains('\n'), "{error}");
        }
    }
}
