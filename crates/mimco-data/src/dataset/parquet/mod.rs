//! Datasets in Parquet files, as Hugging Face's `datasets` stores them.
//!
//! A file's footer contains the positions of its row groups. The images of a row group are read and
//! decompressed together and cached, so that they can be used in any order.

mod codec;
mod footer;
mod pages;
mod thrift;

use crate::dataset::ImageSource;
use crate::dataset::group_cache::GroupCache;
use crate::error::DataError;
use crate::storage::Storage;
use footer::RowGroup;
use parquet::data_type::ByteArray;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// The images of some Parquet files, one file after the other.
pub(crate) struct ParquetFiles {
    /// The path or URL as the user gave it, without secrets.
    location: String,
    storage: Storage,
    paths: Vec<PathBuf>,
    groups: Vec<Group>,
    images: usize,
    /// The class of each image, once read.
    labels: Option<Vec<u32>>,
    class_names: Option<Vec<String>>,
    /// Row groups that were read. In addition, each reading thread holds the row group that it
    /// decompresses, and its compressed bytes.
    cache: GroupCache<Vec<Option<ByteArray>>>,
}

/// A row group and its position in the dataset.
struct Group {
    /// Index of the file.
    file: usize,
    /// Number of the first image in the dataset.
    first: usize,
    /// Number of the first row in the file.
    first_row: usize,
    content: RowGroup,
}

impl ParquetFiles {
    /// Reads the footers of the files.
    ///
    /// The images are the column `image` or `img`, a struct with `bytes`; or else the only such
    /// struct; or else a column of bytes called image, img, bytes, jpg or png. Labels are the
    /// column of integers `label`, `labels` or `fine_label`.
    ///
    /// # Errors
    /// Fails if a file is missing, truncated or not a Parquet file, has no images, uses an
    /// unsupported compression, or has other class names than the files before it.
    pub fn open(location: String, storage: Storage, paths: Vec<PathBuf>) -> Result<ParquetFiles, DataError> {
        let (mut groups, mut images) = (Vec::new(), 0usize);
        let mut class_names: Option<(&PathBuf, Vec<String>)> = None;
        for (file, path) in paths.iter().enumerate() {
            let footer = footer::read(&storage, path).map_err(|e| DataError::path(storage.join(path), e))?;
            let mut first_row = 0;
            for content in footer.groups {
                let rows = content.rows;
                groups.push(Group { file, first: images, first_row, content });
                (images, first_row) = (images + rows, first_row + rows);
            }
            if images > u32::MAX as usize {
                return Err(DataError::path(
                    storage.join(path),
                    format!("exceeds the limit of {} images per dataset; give fewer files", u32::MAX),
                ));
            }
            match (&class_names, footer.class_names) {
                (Some((other, names)), Some(own)) if own != *names => {
                    let what = format!("has other class names than {}; give files of one dataset", other.display());
                    return Err(DataError::path(storage.join(path), what));
                }
                (None, Some(own)) => class_names = Some((path, own)),
                _ => {}
            }
        }
        let class_names = class_names.map(|(_, names)| names);
        Ok(ParquetFiles { location, storage, paths, groups, images, labels: None, class_names, cache: GroupCache::default() })
    }

    /// Reads the labels and returns the names of the classes. Without names in the files, the
    /// classes are the labels that occur. Returns `None` if there is no label column, or if all
    /// labels are -1, as in a test set.
    ///
    /// # Errors
    /// Fails if a file is damaged, if it has no labels although others have, and if a label is
    /// missing, negative or not a class.
    pub fn read_labels(&mut self) -> Result<Option<Vec<String>>, DataError> {
        let Some(labels) = self.column_of_labels()? else { return Ok(None) };
        let (labels, classes) = match &self.class_names {
            Some(names) => (labels, names.clone()),
            None => {
                let numbers: Vec<u32> = labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
                let index = |label: &u32| numbers.binary_search(label).unwrap_or_default() as u32;
                (labels.iter().map(index).collect(), numbers.iter().map(u32::to_string).collect())
            }
        };
        self.labels = Some(labels);
        Ok(Some(classes))
    }

    /// Returns the labels of all images as they are stored.
    fn column_of_labels(&self) -> Result<Option<Vec<u32>>, DataError> {
        if self.groups.iter().all(|group| group.content.labels.is_none()) {
            return Ok(None);
        }
        let classes = self.class_names.as_ref().map_or(u32::MAX, |names| names.len() as u32);
        let (mut labels, mut unlabelled) = (Vec::new(), None);
        for group in &self.groups {
            let path = &self.storage.join(&self.paths[group.file]);
            let Some(chunk) = &group.content.labels else {
                return Err(DataError::path(
                    path,
                    "has no column `label` of integers, which other files of the dataset have; give files of one dataset",
                ));
            };
            let unread = |e: io::Error| DataError::path(path, format!("its labels cannot be read: {e}; download or create it again"));
            for (label, row) in chunk
                .numbers(&self.storage, &self.paths[group.file], group.content.rows)
                .map_err(unread)?
                .into_iter()
                .zip(group.first_row..)
            {
                let wrong = |what: &str| DataError::path(path, format!("row {row} has {what}; give every image the number of its class"));
                match (label, label.map(u32::try_from)) {
                    (Some(-1), _) => unlabelled = unlabelled.or(Some(wrong("the label -1, and others have labels"))),
                    (_, Some(Ok(label))) if label < classes => labels.push(label),
                    (Some(label), _) => return Err(wrong(&format!("the label {label}, which is not a class"))),
                    (None, _) => return Err(wrong("no label")),
                }
            }
        }
        match unlabelled {
            Some(error) if !labels.is_empty() => Err(error),
            Some(_) => Ok(None),
            None => Ok(Some(labels)),
        }
    }

    /// Returns the index of an image's row group.
    fn group_index(&self, image: usize) -> usize {
        self.groups.partition_point(|group| group.first <= image).saturating_sub(1)
    }
}

impl ImageSource for ParquetFiles {
    fn len(&self) -> usize {
        self.images
    }

    /// Returns `FILE/ROW` of an image.
    fn name(&self, image: usize) -> String {
        let group = &self.groups[self.group_index(image)];
        let file = self.paths[group.file].file_name().unwrap_or_default().to_string_lossy();
        format!("{file}/{:06}", group.first_row + image - group.first)
    }

    fn label(&self, image: usize) -> Option<u32> {
        Some(self.labels.as_ref()?[image])
    }

    fn location(&self) -> String {
        self.location.clone()
    }

    /// Reads an image's bytes. Its row group is read if it is not cached, once for all threads.
    fn read(&self, image: usize) -> io::Result<Vec<u8>> {
        let number = self.group_index(image);
        let group = &self.groups[number];
        let (path, content) = (&self.paths[group.file], &group.content);
        let images = self.cache.get(number as u32, || content.images.images(&self.storage, path, content.rows))?;
        match images.get(image - group.first) {
            Some(Some(image)) => Ok(image.data().to_vec()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its row has no image")),
        }
    }

    fn is_transient(&self, error: &io::Error) -> bool {
        self.storage.is_transient(error)
    }

    fn group(&self, image: usize) -> Option<u32> {
        Some(self.group_index(image) as u32)
    }

    fn group_bytes(&self, group: u32) -> u64 {
        self.groups[group as usize].content.images.length
    }

    fn set_cache_bytes(&self, bytes: usize) {
        self.cache.set_capacity(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Fnv;
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::Path;

    fn fixtures(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources").join(folder);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn open(paths: Vec<PathBuf>) -> Result<ParquetFiles, DataError> {
        ParquetFiles::open(String::new(), Storage::folder(Path::new("/")), paths)
    }

    fn odd(name: &str) -> Result<ParquetFiles, DataError> {
        open(fixtures("odd").into_iter().filter(|path| path.ends_with(format!("{name}.parquet"))).collect())
    }

    fn hash(bytes: &[u8]) -> String {
        let mut hash = Fnv::default();
        hash.add(bytes);
        format!("{:016x}", hash.value())
    }

    /// `tests/sources/make_sources.py` wrote the files and the list of their images.
    #[test]
    fn files_written_by_datasets_have_the_images_that_were_put_into_them() {
        let expected = include_str!("../../../tests/fixtures/sources/expected.json");
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        let sources = expected.as_array().unwrap().iter().filter(|source| source["path"] != "shards");
        assert_eq!(sources.clone().count(), 5);
        for source in sources {
            let path = source["path"].as_str().unwrap();
            let set = open(fixtures(path)).unwrap();
            let images = source["images"].as_array().unwrap();
            assert_eq!(set.len(), images.len(), "{path}");
            assert_eq!(serde_json::json!(set.class_names), source["classes"]);
            let labels = set.column_of_labels().unwrap().unwrap();
            // Backwards, with a cache of one row group.
            for (index, image) in images.iter().enumerate().rev() {
                assert_eq!(set.name(index), image["name"].as_str().unwrap());
                assert_eq!(labels[index], image["label"]);
                assert_eq!(hash(&set.read(index).unwrap()), image["stored"].as_str().unwrap(), "{path} {index}");
            }
        }
        let set = open(fixtures("parquet")).unwrap();
        assert_eq!((0..6).map(|index| set.group(index)).collect::<Vec<_>>(), [0, 0, 1, 2, 2, 3].map(Some));
    }

    #[test]
    fn columns_of_other_layouts_are_found_or_are_errors() {
        let content = |set: &ParquetFiles, index| set.read(index).map(|bytes| String::from_utf8(bytes).unwrap());
        let set = odd("other_struct").unwrap();
        assert_eq!((content(&set, 3).unwrap().as_str(), set.column_of_labels().unwrap()), ("image 3", None));
        let set = odd("bytes").unwrap();
        assert_eq!((content(&set, 1).unwrap().as_str(), set.column_of_labels().unwrap()), ("image 1", Some(vec![3, 2, 1, 0])));
        let set = odd("dictionary").unwrap();
        assert_eq!((set.len(), content(&set, 797).unwrap().as_str(), set.class_names), (800, "image 1", None));
        let set = odd("nulls").unwrap();
        assert_eq!([0, 3].map(|index| content(&set, index).unwrap()), ["image 0", "image 3"]);
        for index in [1, 2] {
            assert_eq!(set.read(index).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(odd("unlabelled").unwrap().column_of_labels().unwrap(), None);
        let fails = |error: Option<DataError>, words: [&str; 2]| {
            let error = error.unwrap().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
        };
        fails(odd("nulls").unwrap().column_of_labels().err(), ["nulls.parquet", "row 1 has no label"]);
        fails(odd("negative").unwrap().column_of_labels().err(), ["negative.parquet", "row 1 has the label -2"]);
        fails(odd("partly").unwrap().column_of_labels().err(), ["partly.parquet", "row 1 has the label -1"]);
        fails(odd("text").err(), ["text.parquet", "no column of images"]);
        fails(odd("brotli").err(), ["brotli.parquet", "compressed with brotli"]);
        let both = [fixtures("zstd"), fixtures("odd").into_iter().filter(|path| path.ends_with("other_struct.parquet")).collect()].concat();
        fails(open(both).unwrap().column_of_labels().err(), ["other_struct.parquet", "no column `label`"]);
        fails(open(vec!["gone.parquet".into()]).err(), ["gone.parquet", "check the path"]);
    }

    /// Copies a fixture's first file for changes.
    fn copy(of: &str, folder: &tempfile::TempDir) -> (PathBuf, fs::File, Vec<u8>) {
        let path = folder.path().join("a.parquet");
        fs::copy(&fixtures(of)[0], &path).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        (path, file, bytes)
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file, whole) = copy("parquet", &folder);
        let set = open(vec![path.clone()]).unwrap();
        for end in (0..whole.len() as u64).rev() {
            file.set_len(end).unwrap();
            let error = open(vec![path.clone()]).err().unwrap().to_string();
            assert!(error.contains("a.parquet: is not a complete Parquet file") && !error.contains('\n'), "{end}: {error}");
        }
        // A file that is truncated after it was opened.
        assert_eq!(set.read(2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        fs::remove_file(&path).unwrap();
        assert_eq!(set.read(2).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_changed_byte_is_an_image_or_an_error() {
        let (mut refused, mut unread) = (0, 0);
        for (of, step) in [("parquet", 4), ("snappy", 2), ("gzip", 2), ("zstd", 2), ("lz4", 2)] {
            let folder = tempfile::tempdir().unwrap();
            let (path, mut file, whole) = copy(of, &folder);
            let mut put = |at: usize, byte: u8| {
                file.seek(SeekFrom::Start(at as u64)).unwrap();
                file.write_all(&[byte]).unwrap();
            };
            for (at, mask) in (0..whole.len()).step_by(step).zip([0xff, 0x01, 0x80, 0x10].into_iter().cycle()) {
                put(at, whole[at] ^ mask);
                match open(vec![path.clone()]) {
                    Err(_) => refused += 1,
                    Ok(set) => {
                        assert!(set.len() <= 4 * 1100, "{of} {at}");
                        unread += set.column_of_labels().is_err() as usize;
                        unread += (0..set.len()).filter(|&index| set.read(index).is_err()).count();
                    }
                }
                put(at, whole[at]);
            }
        }
        assert!(refused > 100 && unread > 100, "{refused} files refused, {unread} reads failed");
    }
}
