//! Small datasets that are read into memory as a whole: IDX (MNIST's format, plain or gzip) and
//! CIFAR's binary files.

use crate::dataset::{Dataset, ImageSource};
use crate::decode::Rgb;
use crate::error::DataError;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Images of one size, decoded and in memory.
pub struct InMemoryImages {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// 1 (grayscale) or 3 (RGB as three planes, CIFAR's layout).
    pub channels: usize,
    /// Pixels of all images, [images, channels, height, width].
    pub pixels: Vec<u8>,
    /// The class of each image, if the images are labelled.
    pub labels: Option<Vec<u32>>,
}

impl InMemoryImages {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.stride().max(1)
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Returns the number of bytes per image.
    fn stride(&self) -> usize {
        self.width as usize * self.height as usize * self.channels
    }

    /// Returns image `index` as RGB.
    ///
    /// # Panics
    /// Panics if `index` is not below [`InMemoryImages::len`].
    pub fn rgb(&self, index: usize) -> Rgb {
        let image = &self.pixels[index * self.stride()..][..self.stride()];
        let plane = image.len() / self.channels;
        let channel = |c: usize| if self.channels == 1 { 0 } else { c * plane };
        let pixels = (0..plane).flat_map(|i| [image[i], image[channel(1) + i], image[channel(2) + i]]).collect();
        Rgb { width: self.width, height: self.height, pixels }
    }
}

/// Images in memory with the name of their dataset.
struct Named {
    name: String,
    images: InMemoryImages,
}

impl ImageSource for Named {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn name(&self, image: usize) -> String {
        format!("{}/{image:06}", self.name)
    }

    fn label(&self, image: usize) -> Option<u32> {
        Some(self.images.labels.as_ref()?[image])
    }

    fn location(&self) -> String {
        self.name.clone()
    }

    fn read(&self, image: usize) -> io::Result<Vec<u8>> {
        Ok(self.images.rgb(image).pixels)
    }

    fn pixels(&self, image: usize) -> Option<Rgb> {
        Some(self.images.rgb(image))
    }
}

impl Dataset {
    /// Returns a dataset of images in memory.
    pub fn from_memory(name: &str, images: InMemoryImages, classes: Vec<String>) -> Dataset {
        Dataset::new(Named { name: name.into(), images }, classes)
    }
}

/// Limit of a file's size after decompression, bytes: a few compressed bytes could become billions.
const MAX_DECOMPRESSED: u64 = 1 << 30;

/// Reads a file, through gzip if its name ends in `.gz`.
fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let error = |e: std::io::Error| DataError::path(path, format!("cannot be read: {e}"));
    let mut file = File::open(path).map_err(error)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).take(MAX_DECOMPRESSED + 1).read_to_end(&mut bytes).map_err(error)?;
        if bytes.len() as u64 > MAX_DECOMPRESSED {
            return Err(DataError::path(path, "decompresses to more than 1 GiB; decompress it with gunzip first if that is intended"));
        }
    } else {
        file.read_to_end(&mut bytes).map_err(error)?;
    }
    Ok(bytes)
}

/// Returns the name of the label file that belongs to an IDX file of images, or `None` if `name` is
/// not the name of such a file: `train-images-idx3-ubyte.gz`, or with a dot as in some copies.
pub fn idx_labels_name(name: &str) -> Option<String> {
    let names = [("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1")];
    names.iter().find(|(images, _)| name.contains(images)).map(|(images, labels)| name.replace(images, labels))
}

/// Reads an IDX file of grayscale images and, with `want_labels`, the label file in the same
/// folder.
///
/// # Errors
/// Fails if a file cannot be read or is not an IDX file, and if labels are wanted and missing.
pub fn read_idx(path: &Path, want_labels: bool) -> Result<InMemoryImages, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut images = parse_idx_images(&read(path)?).map_err(|what| DataError::path(path, what))?;
    let labels = idx_labels_name(&name).map(|labels| path.with_file_name(labels)).filter(|p| p.exists());
    match labels {
        Some(labels) if want_labels => {
            let read = parse_idx_labels(&read(&labels)?).map_err(|what| DataError::path(&labels, what))?;
            if read.len() != images.len() {
                return Err(DataError::path(labels, format!("contains {} labels for {} images", read.len(), images.len())));
            }
            images.labels = Some(read);
        }
        None if want_labels => return Err(DataError::path(path, "has no labels file (…labels-idx1…) in its folder")),
        _ => {}
    }
    Ok(images)
}

fn big_endian(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4)?.try_into().ok().map(|b| u32::from_be_bytes(b) as usize)
}

/// Parses IDX images: magic 0x803, count, rows, columns, then one byte per pixel.
///
/// # Errors
/// Fails with a description if the bytes are not a complete IDX file of images.
pub fn parse_idx_images(bytes: &[u8]) -> Result<InMemoryImages, String> {
    let word = |at| big_endian(bytes, at).ok_or("is truncated");
    let (magic, count, height, width) = (word(0)?, word(4)?, word(8)?, word(12)?);
    if magic != 0x803 {
        return Err("is not an IDX file of byte images".into());
    }
    let size = count.checked_mul(height).and_then(|n| n.checked_mul(width));
    match size {
        Some(size) if size > 0 && bytes.len() - 16 == size => {
            Ok(InMemoryImages { width: width as u32, height: height as u32, channels: 1, pixels: bytes[16..].to_vec(), labels: None })
        }
        _ => Err(format!("has a header of {count} images of {width}x{height} but contains {} bytes", bytes.len() - 16)),
    }
}

/// Parses IDX labels: magic 0x801, count, then one byte per label.
///
/// # Errors
/// Fails with a description if the bytes are not a complete IDX file of labels.
pub fn parse_idx_labels(bytes: &[u8]) -> Result<Vec<u32>, String> {
    match (big_endian(bytes, 0), big_endian(bytes, 4)) {
        (Some(0x801), Some(count)) if bytes.len() - 8 == count => Ok(bytes[8..].iter().map(|&b| b as u32).collect()),
        _ => Err("is not a complete IDX file of byte labels".into()),
    }
}

/// Bytes per record in CIFAR-100's binary files.
const CIFAR_100_RECORD: u64 = 2 + 3 * 32 * 32;

/// Reads CIFAR's binary files. A record has its labels (CIFAR-10: one; CIFAR-100: a coarse and a
/// fine one, of which the fine one is used) and three planes of 32x32 bytes.
///
/// # Errors
/// Fails if a file cannot be read or does not consist of complete records.
pub fn read_cifar(paths: &[PathBuf]) -> Result<InMemoryImages, DataError> {
    const IMAGE: usize = 3 * 32 * 32;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = read(path)?;
        let count = if is_cifar_100(&file_name(path)) { 2 } else { 1 };
        if bytes.is_empty() || !bytes.len().is_multiple_of(count + IMAGE) {
            let what = format!("is not a CIFAR binary file: {} bytes are not a multiple of {}", bytes.len(), count + IMAGE);
            return Err(DataError::path(path, what));
        }
        for record in bytes.chunks_exact(count + IMAGE) {
            labels.push(record[count - 1] as u32);
            pixels.extend_from_slice(&record[count..]);
        }
    }
    Ok(InMemoryImages { width: 32, height: 32, channels: 3, pixels, labels: Some(labels) })
}

/// A part of a CIFAR or IDX dataset.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Split {
    All,
    Train,
    Test,
}

/// A folder with more entries is not a CIFAR or IDX dataset and is not listed to its end.
const MAX_ENTRIES: usize = 1000;

/// Opens a CIFAR or IDX dataset; returns `None` if the path is something else.
///
/// # Errors
/// Fails if a file cannot be read or is damaged, and if labels are wanted and missing.
pub(crate) fn open(path: &Path, labels: bool, split: Split) -> Result<Option<Dataset>, DataError> {
    let mut files = if path.is_file() { vec![path.to_path_buf()] } else { files_of(path).unwrap_or_default() };
    // Other files are called `train.bin` too, so the size is checked.
    let fits = |file: &Path| !is_cifar_100(&file_name(file)) || file.metadata().is_ok_and(|m| m.len() % CIFAR_100_RECORD == 0);
    files.retain(|file| is_cifar(&file_name(file)) && fits(file) || idx_labels_name(&file_name(file)).is_some());
    files.sort();
    let is_test = |file: &PathBuf| ["t10k", "test"].iter().any(|part| file_name(file).contains(part));
    match split {
        // The training files of a folder, or its test files if it has no others.
        Split::All if path.is_dir() && !files.iter().all(is_test) => files.retain(|file| !is_test(file)),
        Split::All => {}
        Split::Train => files.retain(|file| !is_test(file)),
        Split::Test => files.retain(is_test),
    }
    let cifar: Vec<PathBuf> = files.iter().filter(|file| is_cifar(&file_name(file))).cloned().collect();
    let images = if !cifar.is_empty() {
        let mut images = read_cifar(&cifar)?;
        if !labels {
            images.labels = None;
        }
        images
    } else if let Some(file) = files.first() {
        read_idx(file, labels)?
    } else {
        return Ok(None);
    };
    let top = images.labels.as_ref().and_then(|l| l.iter().max().copied());
    let classes = top.map_or(Vec::new(), |top| (0..=top).map(|c| c.to_string()).collect());
    Ok(Some(Dataset::from_memory(&file_name(path), images, classes)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_cifar(name: &str) -> bool {
    is_cifar_100(name) || name.ends_with(".bin") && ["data_batch", "test_batch"].iter().any(|begin| name.starts_with(begin))
}

fn is_cifar_100(name: &str) -> bool {
    ["train.bin", "test.bin"].contains(&name)
}

fn files_of(folder: &Path) -> Option<Vec<PathBuf>> {
    let entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().take(MAX_ENTRIES + 1).collect();
    (entries.len() <= MAX_ENTRIES).then(|| entries.iter().map(|e| e.path()).filter(|p| p.is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idx_and_cifar_are_read_with_their_labels() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("train-images-idx3-ubyte");
        let head = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        std::fs::write(&images, [head(&[0x803, 2, 2, 3]), (0..12).collect()].concat()).unwrap();
        assert!(read_idx(&images, true).is_err_and(|e| e.to_string().contains("labels")));
        std::fs::write(folder.path().join("train-labels-idx1-ubyte"), [head(&[0x801, 2]), vec![7, 3]].concat()).unwrap();
        let read = read_idx(&images, true).unwrap();
        assert_eq!((read.len(), read.labels.as_deref()), (2, Some(&[7, 3][..])));
        assert_eq!(read.rgb(1).pixels[..6], [6, 6, 6, 7, 7, 7]);
        std::fs::write(&images, head(&[0x803, 1 << 30, 1 << 30, 1 << 30])).unwrap();
        assert!(read_idx(&images, false).is_err());

        let batch = folder.path().join("data_batch_1.bin");
        let mut record = vec![5u8];
        record.extend((0..3072).map(|i| (i / 1024 * 50) as u8));
        std::fs::write(&batch, &record).unwrap();
        let read = read_cifar(std::slice::from_ref(&batch)).unwrap();
        assert_eq!((read.labels.as_deref(), read.rgb(0).pixels[..3].to_vec()), (Some(&[5][..]), vec![0, 50, 100]));
        std::fs::write(&batch, &record[..100]).unwrap();
        assert!(read_cifar(&[batch]).is_err());
        let hundred = folder.path().join("train.bin");
        std::fs::write(&hundred, [&[9], &record[..]].concat()).unwrap();
        let read = read_cifar(&[hundred]).unwrap();
        assert_eq!((read.labels.as_deref(), read.rgb(0).pixels[..3].to_vec()), (Some(&[5][..]), vec![0, 50, 100]));
    }
}
