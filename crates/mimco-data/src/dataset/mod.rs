//! Datasets: sets of images with names, optional labels and encoded bytes.

mod archive;
mod folder;
mod group_cache;
mod in_memory;
mod open;
mod parquet;

pub use in_memory::{InMemoryImages, idx_labels_name, parse_idx_images, parse_idx_labels, read_cifar, read_idx};

pub(crate) use archive::CLASS_NAMES;

use crate::decode::{MAX_PIXELS, Need, Rgb, decode, decode_region, probe};
use crate::digest::Fnv;
use crate::error::DataError;
use crate::loader::order::{Group, Order};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A set of images with names, and with labels if it has any. Clones share the images.
///
/// ```
/// use mimco_data::{Dataset, Rgb};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// for class in ["cat", "dog"] {
///     std::fs::create_dir(folder.path().join(class))?;
///     let image = Rgb { width: 2, height: 1, pixels: vec![255; 6] };
///     std::fs::write(folder.path().join(class).join("1.png"), image.to_png()?)?;
/// }
/// let dataset = Dataset::open_labelled(folder.path())?;
/// assert_eq!(dataset.len(), 2);
/// assert_eq!(dataset.name(1), "dog/1.png");
/// assert_eq!(dataset.classes(), ["cat", "dog"]);
/// assert_eq!(dataset.label(1), Some(1));
/// assert_eq!(dataset.load(1)?.width, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dataset {
    source: Arc<dyn ImageSource>,
    /// Numbers of the images in `source`, in the order of this dataset.
    chosen: Arc<[u32]>,
    classes: Arc<[String]>,
    /// Index in `classes` of each class of the source; empty if the two agree.
    class_indices: Arc<[u32]>,
    max_pixels: u64,
    /// Bytes of the images that an epoch shuffles together, for images that are read in groups.
    window: u64,
}

/// Default shuffle window, bytes; see [`Dataset::with_window`].
const WINDOW: u64 = 64 << 20;

/// A kind of dataset: where its images are stored and how they are read. Images are numbered from
/// 0.
pub(crate) trait ImageSource: Send + Sync {
    /// Returns the number of images.
    fn len(&self) -> usize;

    /// Returns an image's name, with `/` between its parts.
    fn name(&self, image: usize) -> String;

    /// Returns an image's class, for labelled sources.
    fn label(&self, image: usize) -> Option<u32>;

    /// Returns the path or URL of the source, or the name of images in memory.
    fn location(&self) -> String;

    /// Reads an image's bytes as they are stored.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    fn read(&self, image: usize) -> io::Result<Vec<u8>>;

    /// Returns an image of a source whose images are stored decoded.
    fn pixels(&self, _image: usize) -> Option<Rgb> {
        None
    }

    /// Returns whether reading may succeed later after this error.
    fn is_transient(&self, _error: &io::Error) -> bool {
        false
    }

    /// Returns the number of the group that an image is read in, for sources read in groups.
    fn group(&self, _image: usize) -> Option<u32> {
        None
    }

    /// Returns the stored bytes of a group.
    fn group_bytes(&self, _group: u32) -> u64 {
        0
    }

    /// Sets how many bytes of groups are kept in memory.
    fn set_cache_bytes(&self, _bytes: usize) {}

    /// Writes a cache of folder listings, for sources that consist of many files.
    ///
    /// # Errors
    /// Fails if `file` cannot be written.
    fn write_listing_cache(&self, _file: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl Dataset {
    /// Returns a dataset of all images of a source.
    pub(crate) fn new(source: impl ImageSource + 'static, classes: Vec<String>) -> Dataset {
        let chosen = (0..source.len() as u32).collect();
        let (classes, class_indices) = (classes.into(), Arc::default());
        Dataset { source: Arc::new(source), chosen, classes, class_indices, max_pixels: MAX_PIXELS, window: 0 }.with_window(WINDOW)
    }

    /// Returns the same images with labels that index another dataset's classes. Classes are
    /// matched by name.
    ///
    /// # Errors
    /// Fails if a class of this dataset is not among `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Dataset, DataError> {
        let index = |name: &String| {
            classes.iter().position(|class| class == name).map(|index| index as u32).ok_or_else(|| {
                DataError::path(
                    self.location(),
                    format!("has a class `{name}` that the training images do not have; give folders with the same classes"),
                )
            })
        };
        self.class_indices = self.classes.iter().map(index).collect::<Result<_, _>>()?;
        self.classes = classes.into();
        Ok(self)
    }

    /// Returns the images at these indices, in this order.
    ///
    /// # Panics
    /// Panics if an index is not below [`Dataset::len`].
    pub fn subset(&self, indices: &[u32]) -> Dataset {
        Dataset { chosen: indices.iter().map(|&i| self.chosen[i as usize]).collect(), ..self.clone() }
    }

    /// Returns the same dataset with another limit of pixels per image.
    pub fn with_max_pixels(mut self, max_pixels: u64) -> Dataset {
        self.max_pixels = max_pixels;
        self
    }

    /// Returns the same dataset with another shuffle window, in bytes.
    ///
    /// The window matters for images that are read in groups: row groups of Parquet files, and
    /// neighbors in the shards of an object store. An epoch takes the groups in random order, as
    /// many at a time as the window holds, and shuffles their images. The window is kept in memory,
    /// and so is the next one.
    pub fn with_window(mut self, window: u64) -> Dataset {
        self.window = window;
        self.source.set_cache_bytes(usize::try_from(window.saturating_mul(2)).unwrap_or(usize::MAX));
        self
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Returns whether the dataset has no images.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Returns the order of an epoch's samples.
    pub(crate) fn order(&self, seed: u64, epoch: u64) -> Order {
        match self.groups() {
            Some(groups) => Order::windowed(groups, self.window, seed, epoch),
            None => Order::shuffled(self.len(), seed, epoch),
        }
    }

    /// Returns the samples that are read together, for sources read in groups.
    fn groups(&self) -> Option<Vec<Group>> {
        let mut samples: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (&image, sample) in self.chosen.iter().zip(0..) {
            samples.entry(self.source.group(image as usize)?).or_default().push(sample);
        }
        Some(samples.into_iter().map(|(group, samples)| Group { samples, bytes: self.source.group_bytes(group) }).collect())
    }

    /// Reads the group of a sample ahead of its use. Errors are reported when the sample is used.
    pub(crate) fn read_ahead(&self, index: usize) {
        drop(self.raw(index));
    }

    /// Returns an image's path below the folder with `/` between components, or its number in a
    /// dataset in memory.
    ///
    /// # Panics
    /// Panics if `index` is not below [`Dataset::len`].
    pub fn name(&self, index: usize) -> String {
        self.source.name(self.chosen[index] as usize)
    }

    /// Returns an image's class as an index into [`Dataset::classes`], for a labelled dataset.
    ///
    /// # Panics
    /// Panics if `index` is not below [`Dataset::len`].
    pub fn label(&self, index: usize) -> Option<u32> {
        let label = self.source.label(self.chosen[index] as usize)?;
        Some(self.class_indices.get(label as usize).copied().unwrap_or(label))
    }

    /// Returns the names of the classes; empty for a dataset without labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Reads an image without decoding it.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    ///
    /// # Panics
    /// Panics if `index` is not below [`Dataset::len`].
    pub fn read(&self, index: usize) -> Result<Encoded, DataError> {
        match self.source.pixels(self.chosen[index] as usize) {
            Some(image) => Ok(Encoded::Pixels(image)),
            None => Ok(Encoded::File { bytes: self.raw(index)?, name: self.name(index), max_pixels: self.max_pixels }),
        }
    }

    /// Reads and decodes an image.
    ///
    /// # Errors
    /// Fails if the file cannot be read or decoded.
    ///
    /// # Panics
    /// Panics if `index` is not below [`Dataset::len`].
    pub fn load(&self, index: usize) -> Result<Rgb, DataError> {
        self.read(index)?.decode()
    }

    /// Returns an image's bytes as they are stored: those of its file, or its pixels.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub(crate) fn raw(&self, index: usize) -> Result<Vec<u8>, DataError> {
        self.source.read(self.chosen[index] as usize).map_err(|e| DataError::Unread {
            name: self.name(index),
            what: format!("cannot be read: {e}"),
            is_transient: self.source.is_transient(&e),
        })
    }

    /// Decodes the bytes returned by [`Dataset::raw`].
    ///
    /// # Errors
    /// Fails if the image cannot be decoded.
    pub(crate) fn decode_raw(&self, index: usize, raw: &[u8]) -> Result<Rgb, DataError> {
        match self.source.pixels(self.chosen[index] as usize) {
            Some(image) => Ok(image),
            None => decode(raw, &self.name(index), self.max_pixels),
        }
    }

    /// Returns a digest of names and labels, or of pixels and labels for images in memory.
    pub fn digest(&self) -> u64 {
        let mut digest = Fnv::default();
        for i in 0..self.len() {
            match self.source.pixels(self.chosen[i] as usize) {
                Some(image) => digest.add(&image.pixels),
                None => digest.add(self.name(i).as_bytes()),
            }
            digest.add(&self.label(i).unwrap_or(u32::MAX).to_le_bytes());
        }
        digest.value()
    }

    /// Returns the path or URL of the dataset, or the name of a dataset in memory.
    pub fn location(&self) -> String {
        self.source.location()
    }

    /// Writes the file listings of a large folder to a cache file, so that [`Dataset::open`] does
    /// not list unchanged folders again. Other datasets write nothing.
    ///
    /// # Errors
    /// Fails if `file` cannot be written.
    pub fn write_listing_cache(&self, file: &Path) -> Result<(), DataError> {
        self.source
            .write_listing_cache(file)
            .map_err(|e| DataError::path(file, format!("cannot be written: {e}; free some disk space, or give a writable folder")))
    }
}

/// An image that is read but not decoded.
pub enum Encoded {
    /// The bytes of an image file.
    File {
        /// The file's bytes.
        bytes: Vec<u8>,
        /// The image's name, for errors.
        name: String,
        /// Images with more pixels are refused.
        max_pixels: u64,
    },
    /// An image that is stored decoded.
    Pixels(Rgb),
}

impl Encoded {
    /// Returns width and height in pixels, after applying the EXIF orientation.
    ///
    /// # Errors
    /// Fails if the bytes are not an image.
    pub fn size(&self) -> Result<(u32, u32), DataError> {
        match self {
            Encoded::File { bytes, name, .. } => probe(bytes, name),
            Encoded::Pixels(image) => Ok((image.width, image.height)),
        }
    }

    /// Decodes the whole image.
    ///
    /// # Errors
    /// Fails if the image cannot be decoded.
    pub fn decode(&self) -> Result<Rgb, DataError> {
        self.decode_region(&Need::everything()).map(|(image, _)| image)
    }

    /// Decodes the needed part of the image and returns it with its reduction factor; see
    /// [`decode_region`].
    ///
    /// # Errors
    /// Fails if the image cannot be decoded.
    pub fn decode_region(&self, need: &Need) -> Result<(Rgb, u32), DataError> {
        match self {
            Encoded::File { bytes, name, max_pixels } => decode_region(bytes, name, *max_pixels, need),
            Encoded::Pixels(image) => Ok((image.clone(), 1)),
        }
    }
}
