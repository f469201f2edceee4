//! A set of images: what each is called, which class it has, and its bytes.

use crate::decode::{MAX_PIXELS, Need, decode, decode_part, probe};
use crate::formats::Packed;
use crate::order::{Group, Order};
use crate::parquet::Parquet;
use crate::place::Place;
use crate::shards::Shards;
use crate::tree::Tree;
use crate::{DataError, Rgb, index};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
    /// Bytes of the images among which an order mixes, where they are read in groups.
    window: u64,
}

/// Enough for images that are taken in sequence; see [`Dataset::with_window`].
const WINDOW: u64 = 64 << 20;

/// Where the images come from.
pub(crate) enum Images {
    /// Files below a folder; the classes are those of the folders below it.
    Files {
        place: Place,
        tree: Tree,
        labels: Option<Vec<u32>>,
    },
    Shards {
        name: String,
        shards: Shards,
        labels: Option<Vec<u32>>,
    },
    Parquet {
        name: String,
        parquet: Parquet,
        labels: Option<Vec<u32>>,
    },
    Packed {
        name: String,
        packed: Packed,
    },
}

impl Dataset {
    /// All of some images.
    pub(crate) fn new(images: Images, classes: Vec<String>) -> Dataset {
        let chosen = (0..images.len() as u32).collect();
        Dataset { images: Arc::new(images), chosen, classes: classes.into(), places: Arc::default(), max_pixels: MAX_PIXELS, window: 0 }
            .with_window(WINDOW)
    }

    /// Images of one size in memory.
    pub fn from_packed(name: &str, packed: Packed, classes: Vec<String>) -> Dataset {
        Dataset::new(Images::Packed { name: name.into(), packed }, classes)
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

    /// These of its images, in this order.
    pub fn subset(&self, indices: &[u32]) -> Dataset {
        Dataset { chosen: indices.iter().map(|&i| self.chosen[i as usize]).collect(), ..self.clone() }
    }

    /// The same set with another limit of pixels an image.
    pub fn with_max_pixels(mut self, max_pixels: u64) -> Dataset {
        self.max_pixels = max_pixels;
        self
    }

    /// The same set with another window, in bytes: where images are read in groups (parquet's row groups, neighbours in shards of an object store), an
    /// epoch takes groups in random order, as many at a time as the window holds, and mixes their images. It is kept in memory, and so is the next.
    pub fn with_window(mut self, window: u64) -> Dataset {
        self.window = window;
        let room = usize::try_from(window.saturating_mul(2)).unwrap_or(usize::MAX);
        match &*self.images {
            Images::Shards { shards, .. } => shards.cache.give_room(room),
            Images::Parquet { parquet, .. } => parquet.cache.give_room(room),
            Images::Files { .. } | Images::Packed { .. } => {}
        }
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

    /// The order of an epoch's samples.
    pub(crate) fn order(&self, seed: u64, epoch: u64) -> Order {
        match self.groups() {
            Some(groups) => Order::windowed(groups, self.window, seed, epoch),
            None => Order::shuffled(self.len(), seed, epoch),
        }
    }

    /// The samples that are read together, where they are.
    fn groups(&self) -> Option<Vec<Group>> {
        let mut samples: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (&image, sample) in self.chosen.iter().zip(0..) {
            samples.entry(self.images.group(image as usize)?).or_default().push(sample);
        }
        Some(samples.into_iter().map(|(group, samples)| Group { samples, bytes: self.images.group_bytes(group) }).collect())
    }

    /// Reads the group of a sample before it is needed; what goes wrong shows when it is.
    pub(crate) fn read_ahead(&self, index: usize) {
        drop(self.raw(index));
    }

    /// An image's path below the folder, with `/`, or its place in a packed set.
    pub fn name(&self, index: usize) -> String {
        let index = self.chosen[index] as usize;
        match &*self.images {
            Images::Files { tree, .. } => tree.name(index),
            Images::Shards { shards, .. } => shards.name(index),
            Images::Parquet { parquet, .. } => parquet.name(index),
            Images::Packed { name, .. } => format!("{name}/{index:06}"),
        }
    }

    /// An image's class.
    pub fn label(&self, index: usize) -> Option<u32> {
        let index = self.chosen[index] as usize;
        let label = match &*self.images {
            Images::Files { tree, labels, .. } => labels.as_ref()?[tree.folder_of(index)],
            Images::Shards { labels, .. } | Images::Parquet { labels, .. } => labels.as_ref()?[index],
            Images::Packed { packed, .. } => packed.labels.as_ref()?[index],
        };
        Some(self.places.get(label as usize).copied().unwrap_or(label))
    }

    /// Names of the classes; empty where there are no labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Reads an image, to be decoded.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, index: usize) -> Result<Encoded, DataError> {
        match &*self.images {
            Images::Packed { packed, .. } => Ok(Encoded::Pixels(packed.rgb(self.chosen[index] as usize))),
            _ => Ok(Encoded::File { bytes: self.raw(index)?, name: self.name(index), max_pixels: self.max_pixels }),
        }
    }

    /// Reads and decodes an image.
    ///
    /// # Errors
    /// A file that cannot be read or decoded.
    pub fn load(&self, index: usize) -> Result<Rgb, DataError> {
        self.read(index)?.decode()
    }

    /// An image's bytes as they are stored, for finding duplicates.
    pub(crate) fn raw(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let chosen = self.chosen[index] as usize;
        let bytes = match &*self.images {
            Images::Packed { packed, .. } => Ok(packed.rgb(chosen).pixels),
            Images::Files { place, tree, .. } => place.read(&tree.path(chosen), None),
            Images::Shards { shards, .. } => shards.read(chosen),
            Images::Parquet { parquet, .. } => parquet.read(chosen),
        };
        bytes.map_err(|e| {
            let passes = self.images.place().is_some_and(|place| place.passes(&e));
            DataError::Unread { name: self.name(index), what: format!("cannot be read: {e}"), passes }
        })
    }

    /// Decodes bytes that [`Dataset::raw`] gave.
    pub(crate) fn decode_raw(&self, index: usize, raw: &[u8]) -> Result<Rgb, DataError> {
        match &*self.images {
            Images::Packed { packed, .. } => Ok(packed.rgb(self.chosen[index] as usize)),
            _ => decode(raw, &self.name(index), self.max_pixels),
        }
    }

    /// A number that another set hardly shares: of names and labels, or of the pixels of a set in memory.
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        for i in 0..self.len() {
            match &*self.images {
                Images::Packed { packed, .. } => hash.add(&packed.rgb(self.chosen[i] as usize).pixels),
                _ => hash.add(self.name(i).as_bytes()),
            }
            hash.add(&self.label(i).unwrap_or(u32::MAX).to_le_bytes());
        }
        hash.0
    }

    /// Where its files lie, or its name.
    pub fn place(&self) -> String {
        match &*self.images {
            Images::Files { place, .. } => place.path().display().to_string(),
            Images::Shards { name, .. } | Images::Parquet { name, .. } | Images::Packed { name, .. } => name.clone(),
        }
    }

    /// Keeps where the files of a large folder lie, so that [`Dataset::open`] need not look for them again.
    ///
    /// # Errors
    /// Where `file` cannot be written.
    pub fn keep_index(&self, file: &Path) -> Result<(), DataError> {
        match &*self.images {
            Images::Files { place, tree, .. } if !place.is_far() => index::write(file, place.path(), tree)
                .map_err(|e| DataError::path(file, format!("cannot be written: {e}; make room, or give a folder you may write"))),
            _ => Ok(()),
        }
    }
}

impl Images {
    fn len(&self) -> usize {
        match self {
            Images::Files { tree, .. } => tree.len(),
            Images::Shards { shards, .. } => shards.len(),
            Images::Parquet { parquet, .. } => parquet.len(),
            Images::Packed { packed, .. } => packed.len(),
        }
    }

    /// Where its files lie.
    fn place(&self) -> Option<&Place> {
        match self {
            Images::Files { place, .. } => Some(place),
            Images::Shards { shards, .. } => Some(shards.place()),
            Images::Parquet { parquet, .. } => Some(parquet.place()),
            Images::Packed { .. } => None,
        }
    }

    /// Which images an image is read with.
    fn group(&self, image: usize) -> Option<u32> {
        match self {
            Images::Shards { shards, .. } => shards.group(image),
            Images::Parquet { parquet, .. } => Some(parquet.group(image)),
            Images::Files { .. } | Images::Packed { .. } => None,
        }
    }

    fn group_bytes(&self, group: u32) -> u64 {
        match self {
            Images::Shards { shards, .. } => shards.group_bytes(group),
            Images::Parquet { parquet, .. } => parquet.group_bytes(group),
            Images::Files { .. } | Images::Packed { .. } => 0,
        }
    }
}

/// An image that was read and is not decoded.
pub enum Encoded {
    /// The bytes of a file.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// For errors.
        name: String,
        /// Most pixels that it may have.
        max_pixels: u64,
    },
    /// An image of a packed set.
    Pixels(Rgb),
}

impl Encoded {
    /// Width and height, turned as the image says.
    ///
    /// # Errors
    /// What is not an image.
    pub fn size(&self) -> Result<(u32, u32), DataError> {
        match self {
            Encoded::File { bytes, name, .. } => probe(bytes, name),
            Encoded::Pixels(image) => Ok((image.width, image.height)),
        }
    }

    /// The whole image.
    ///
    /// # Errors
    /// What cannot be decoded.
    pub fn decode(&self) -> Result<Rgb, DataError> {
        self.decode_part(&Need::everything()).map(|(image, _)| image)
    }

    /// What is needed of the image, and by what factor it is reduced; see [`decode_part`].
    ///
    /// # Errors
    /// What cannot be decoded.
    pub fn decode_part(&self, need: &Need) -> Result<(Rgb, u32), DataError> {
        match self {
            Encoded::File { bytes, name, max_pixels } => decode_part(bytes, name, *max_pixels, need),
            Encoded::Pixels(image) => Ok((image.clone(), 1)),
        }
    }
}

/// Fowler, Noll and Vo's hash (FNV-1a).
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
