//! Sets of images: a folder, a list of files, shards, CIFAR-10 binary, IDX, or images in memory.

use crate::decode::{MAX_PIXELS, decode};
use crate::folders::{is_image, slashed, walk};
use crate::formats::{self, Packed, Split};
use crate::shards::{self, Shards};
use crate::{DataError, Rgb};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

const LOOKED_FOR: &str = "looked for .jpg .jpeg .png .webp .bmp .tif .tiff, .tar and .zip archives, CIFAR-10 .bin and IDX files";

/// How long a file that cannot be read is waited for, each time it is tried.
const WAITS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// A set of images with names, and labels where it has them. Clones share it.
#[derive(Clone)]
pub struct Dataset {
    images: Arc<Images>,
    /// Which of them, in order.
    chosen: Arc<[u32]>,
    classes: Arc<[String]>,
    /// Where each of the images' own classes stands in `classes`; empty where they are the same.
    places: Arc<[u32]>,
    max_pixels: u64,
}

enum Images {
    Files { root: PathBuf, files: Vec<PathBuf>, names: Vec<String>, labels: Option<Vec<u32>> },
    Shards { root: PathBuf, shards: Shards, labels: Option<Vec<u32>> },
    Packed { name: String, packed: Packed },
}

impl Dataset {
    /// Images without labels: a folder at any depth, a list of files (`.txt`, one a line, relative to the list), shards (`name-{000..127}.tar`, or
    /// a folder with nothing else), a CIFAR-10 binary file or folder, an IDX file or folder.
    ///
    /// # Errors
    /// A path that is not there, cannot be read, or holds no image.
    pub fn heap(path: &Path) -> Result<Dataset, DataError> {
        if let Some(packed) = formats::open(path, false, Split::All)? {
            return Ok(packed);
        }
        if let Some(shards) = open_shards(path, false)? {
            return Ok(shards);
        }
        if path.is_file() {
            return from_list(path);
        }
        let files = walk(path)?;
        Dataset::from_files(path, files, None, Vec::new())
    }

    /// Images with labels: class folders (a class is the first folder below `path`), shards with `.cls` members or class folders, CIFAR-10 binary,
    /// IDX with its labels.
    ///
    /// # Errors
    /// As [`Dataset::heap`], or where there are no class folders.
    pub fn labelled(path: &Path) -> Result<Dataset, DataError> {
        if let Some(packed) = formats::open(path, true, Split::All)? {
            return Ok(packed);
        }
        if let Some(shards) = open_shards(path, true)? {
            return Ok(shards);
        }
        if path.is_file() {
            return Err(DataError::path(path, "is a file, which has no labels; give a folder of class folders"));
        }
        let files = walk(path)?;
        let class_of = |file: &PathBuf| {
            let inside = file.strip_prefix(path).ok()?;
            (inside.components().count() > 1).then(|| inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()))?
        };
        let all = files.len();
        let files: Vec<PathBuf> = files.into_iter().filter(|f| class_of(f).is_some()).collect();
        if !files.is_empty() && files.len() < all {
            tracing::warn!("{}: {} images outside its class folders are left out", path.display(), all - files.len());
        }
        let mut classes: Vec<String> = files.iter().filter_map(class_of).collect();
        classes.dedup();
        if classes.is_empty() {
            return Err(DataError::path(path, "has no class folders with images; labels come from folders: PATH/CLASS/image.jpg"));
        }
        let labels = files.iter().filter_map(class_of).filter_map(|c| classes.iter().position(|k| *k == c)).map(|i| i as u32).collect();
        Dataset::from_files(path, files, Some(labels), classes)
    }

    /// Training and validation sets, where `path` has `train/` and `val/` or `validation/` of class folders, CIFAR-10's batches and test batch,
    /// or IDX files of both.
    pub fn splits(path: &Path) -> Result<Option<(Dataset, Dataset)>, DataError> {
        if let (Ok(Some(train)), Ok(Some(val))) = (formats::open(path, true, Split::Train), formats::open(path, true, Split::Test)) {
            return Ok(Some((train, val)));
        }
        let train = path.join("train");
        let val = ["val", "validation"].iter().map(|name| path.join(name)).find(|p| p.is_dir());
        let Some(val) = val.filter(|_| train.is_dir()) else { return Ok(None) };
        let (Ok(train), Ok(val)) = (Dataset::labelled(&train), Dataset::labelled(&val)) else {
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

    /// The same images, their labels counted in another set's classes: folders agree by name, not by place.
    ///
    /// # Errors
    /// A class that is not among them.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Dataset, DataError> {
        let place = |name: &String| {
            classes.iter().position(|class| class == name).map(|place| place as u32).ok_or_else(|| {
                DataError::path(
                    self.place(),
                    format!("has a class `{name}` that the training images have not; give folders of the same classes"),
                )
            })
        };
        self.places = self.classes.iter().map(place).collect::<Result<_, _>>()?;
        self.classes = classes.into();
        Ok(self)
    }

    /// Grey images in memory.
    pub fn from_grey(name: &str, packed: Packed, classes: Vec<String>) -> Dataset {
        let count = packed.len() as u32;
        Dataset {
            images: Arc::new(Images::Packed { name: name.into(), packed }),
            chosen: (0..count).collect(),
            classes: classes.into(),
            places: Arc::default(),
            max_pixels: MAX_PIXELS,
        }
    }

    fn from_files(root: &Path, files: Vec<PathBuf>, labels: Option<Vec<u32>>, classes: Vec<String>) -> Result<Dataset, DataError> {
        if files.is_empty() {
            return Err(DataError::path(root, format!("holds no images ({LOOKED_FOR}); give a folder that does")));
        }
        let names = files.iter().map(|f| slashed(f.strip_prefix(root).unwrap_or(f))).collect();
        let chosen = (0..files.len() as u32).collect();
        let images = Arc::new(Images::Files { root: root.to_path_buf(), files, names, labels });
        Ok(Dataset { images, chosen, classes: classes.into(), places: Arc::default(), max_pixels: MAX_PIXELS })
    }

    /// These of its images, in this order.
    pub fn subset(&self, indices: &[u32]) -> Dataset {
        Dataset { chosen: indices.iter().map(|&i| self.chosen[i as usize]).collect(), ..self.clone() }
    }

    /// The same set with another limit of pixels an image.
    pub fn with_max_pixels(mut self, max_pixels: u64) -> Dataset {
        self.max_pixels = max_pixels;
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// An image's path below the folder, with `/`, or its place in a packed set.
    pub fn name(&self, index: usize) -> String {
        let index = self.chosen[index] as usize;
        match &*self.images {
            Images::Files { names, .. } => names[index].clone(),
            Images::Shards { shards, .. } => shards.names[index].clone(),
            Images::Packed { name, .. } => format!("{name}/{index:06}"),
        }
    }

    /// An image's class.
    pub fn label(&self, index: usize) -> Option<u32> {
        let index = self.chosen[index] as usize;
        let label = match &*self.images {
            Images::Files { labels, .. } | Images::Shards { labels, .. } => labels.as_ref()?[index],
            Images::Packed { packed, .. } => packed.labels.as_ref()?[index],
        };
        Some(self.places.get(label as usize).copied().unwrap_or(label))
    }

    /// Names of the classes; empty where there are no labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Reads and decodes an image.
    pub fn load(&self, index: usize) -> Result<Rgb, DataError> {
        match &*self.images {
            Images::Packed { packed, .. } => Ok(packed.rgb(self.chosen[index] as usize)),
            Images::Files { .. } | Images::Shards { .. } => decode(&self.raw(index)?, &self.name(index), self.max_pixels),
        }
    }

    /// An image's bytes as they are stored, for finding duplicates.
    pub(crate) fn raw(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let chosen = self.chosen[index] as usize;
        let bytes = match &*self.images {
            Images::Packed { packed, .. } => Ok(packed.rgb(chosen).pixels),
            Images::Files { root, files, .. } => patiently(root, &files[chosen], || fs::read(&files[chosen])),
            Images::Shards { shards, .. } => {
                let shard = shards.path(chosen);
                patiently(shard.parent().unwrap_or(shard), shard, || shards.read(chosen))
            }
        };
        bytes.map_err(|e| DataError::Image { name: self.name(index), what: format!("cannot be read: {e}") })
    }

    /// Decodes bytes that [`Dataset::raw`] gave.
    pub(crate) fn decode_raw(&self, index: usize, raw: &[u8]) -> Result<Rgb, DataError> {
        match &*self.images {
            Images::Packed { packed, .. } => Ok(packed.rgb(self.chosen[index] as usize)),
            Images::Files { .. } | Images::Shards { .. } => decode(raw, &self.name(index), self.max_pixels),
        }
    }

    /// A number that another set hardly shares: of names and labels, or of the pixels of a set in memory.
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        for i in 0..self.len() {
            match &*self.images {
                Images::Files { .. } | Images::Shards { .. } => hash.add(self.name(i).as_bytes()),
                Images::Packed { packed, .. } => hash.add(&packed.rgb(self.chosen[i] as usize).pixels),
            }
            hash.add(&self.label(i).unwrap_or(u32::MAX).to_le_bytes());
        }
        hash.0
    }

    /// Where its files lie, or its name.
    pub fn place(&self) -> String {
        match &*self.images {
            Images::Files { root, .. } | Images::Shards { root, .. } => root.display().to_string(),
            Images::Packed { name, .. } => name.clone(),
        }
    }
}

/// Fowler, Noll and Vo's hash (FNV-1a).
pub(crate) struct Fnv(pub(crate) u64);

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Whether a failure to read a file would be the same a second later.
fn lasts(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied, UnexpectedEof};
    [InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied, UnexpectedEof].contains(&kind)
}

/// Reads again, after a while, what a disk or a network fails to give, and all of a folder that is away, as when a mount drops; a file
/// that alone is gone stays gone.
fn patiently<T>(root: &Path, file: &Path, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for wait in WAITS {
        match read() {
            Err(e) if !lasts(e.kind()) || !root.exists() => {
                tracing::warn!("{}: {e}; trying again in {} ms", file.display(), wait.as_millis());
                std::thread::sleep(wait);
            }
            done => return done,
        }
    }
    read()
}

/// The shards that a path names; a folder's where it holds no images of its own.
fn open_shards(path: &Path, labelled: bool) -> Result<Option<Dataset>, DataError> {
    let Some(paths) = shards::named(path)? else { return Ok(None) };
    if path.is_dir() && !walk(path)?.is_empty() {
        return Ok(None);
    }
    let shards = Shards::open(paths, is_image)?;
    if shards.members.is_empty() {
        return Err(DataError::path(path, format!("holds no images ({LOOKED_FOR}); give shards that do")));
    }
    let (labels, classes) = if labelled { Some(shards.labels(path)?) } else { None }.unzip();
    let classes: Vec<String> = classes.unwrap_or_default();
    let chosen = (0..shards.members.len() as u32).collect();
    let images = Arc::new(Images::Shards { root: path.to_path_buf(), shards, labels });
    Ok(Some(Dataset { images, chosen, classes: classes.into(), places: Arc::default(), max_pixels: MAX_PIXELS }))
}

fn from_list(path: &Path) -> Result<Dataset, DataError> {
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
        return Err(DataError::path(path, format!("is neither a folder nor a .txt list of files ({LOOKED_FOR})")));
    }
    let text = fs::read_to_string(path).map_err(|e| DataError::path(path, format!("cannot be read: {e}")))?;
    let root = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|l| !l.is_empty()).map(|line| root.join(line)).collect();
    Dataset::from_files(root, files, None, Vec::new())
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
        let (train, val) = Dataset::splits(folder.path()).unwrap().unwrap();
        assert_eq!((train.len(), val.len(), val.name(1)), (2, 2, "y/4.png".to_string()));
        assert!(Dataset::splits(&folder.path().join("train")).unwrap().is_none());
        touch(folder.path(), &["few/y/6.png", "odd/z/7.png"]);
        let labelled = |name: &str| Dataset::labelled(&folder.path().join(name)).unwrap();
        let few = labelled("few").with_classes(train.classes()).unwrap();
        assert_eq!((few.label(0), few.classes()), (Some(1), train.classes()));
        assert!(labelled("odd").with_classes(train.classes()).err().unwrap().to_string().contains("`z`"));
    }

    #[test]
    fn a_folder_that_comes_back_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let (here, away) = (folder.path().join("mount"), folder.path().join("away"));
        touch(&here, &["1.png", "2.png"]);
        let set = Dataset::heap(&here).unwrap();
        fs::rename(&here, &away).unwrap();
        let back = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(250));
            fs::rename(away, here).unwrap();
        });
        assert_eq!(set.load(1).unwrap().width, 2);
        back.join().unwrap();
        fs::remove_file(folder.path().join("mount/1.png")).unwrap();
        assert!(set.load(0).err().unwrap().to_string().contains("1.png"));
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
