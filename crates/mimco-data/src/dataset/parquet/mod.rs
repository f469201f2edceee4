//! Sets of images in Parquet files, as Hugging Face's `datasets` stores them. A file's footer tells where its row groups lie; a row group's
//! images are read and unpacked together, kept while there is room, and then each is there in any order.

mod codec;
mod footer;
mod pages;
mod thrift;

use crate::DataError;
use crate::cache::Cache;
use crate::place::Place;
use footer::RowGroup;
use parquet::data_type::ByteArray;
use std::io;
use std::path::PathBuf;

/// The images of some Parquet files, one after the other.
pub(crate) struct Parquet {
    place: Place,
    paths: Vec<PathBuf>,
    groups: Vec<Group>,
    images: usize,
    classes: Option<Vec<String>>,
    /// Row groups that were read; besides those, each thread that reads has the one that it unpacks, and its packed bytes.
    pub cache: Cache<Vec<Option<ByteArray>>>,
}

/// A row group's place in the set.
struct Group {
    /// Which file.
    file: usize,
    /// The first image's number in the set and row in the file.
    first: usize,
    first_row: usize,
    content: RowGroup,
}

impl Parquet {
    /// Reads the files' footers. The images are the column `image` or `img`, a struct with `bytes`, else the only such struct, else a column of
    /// bytes called image, img, bytes, jpg or png; labels are the column of integers `label`, `labels` or `fine_label`.
    ///
    /// # Errors
    /// A file that is missing, cut short, none, without images, packed in a way that is not read, or that calls the classes otherwise.
    pub fn open(place: Place, paths: Vec<PathBuf>) -> Result<Parquet, DataError> {
        let (mut groups, mut images) = (Vec::new(), 0usize);
        let mut classes: Option<(&PathBuf, Vec<String>)> = None;
        for (file, path) in paths.iter().enumerate() {
            let footer = footer::read(&place, path).map_err(|e| DataError::path(place.full(path), e))?;
            let mut first_row = 0;
            for content in footer.groups {
                let rows = content.rows;
                groups.push(Group { file, first: images, first_row, content });
                (images, first_row) = (images + rows, first_row + rows);
            }
            if images > u32::MAX as usize {
                return Err(DataError::path(
                    place.full(path),
                    format!("is one too many: a set has at most {} images; give fewer files", u32::MAX),
                ));
            }
            match (&classes, footer.classes) {
                (Some((other, names)), Some(own)) if own != *names => {
                    let what = format!("calls the classes otherwise than {}; give files of one set", other.display());
                    return Err(DataError::path(place.full(path), what));
                }
                (None, Some(own)) => classes = Some((path, own)),
                _ => {}
            }
        }
        let classes = classes.map(|(_, names)| names);
        Ok(Parquet { place, paths, groups, images, classes, cache: Cache::default() })
    }

    /// Where its files lie.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images
    }

    /// Reads the labels of all images, one an image; none where there is no column of them, or all are -1, as in a test set.
    ///
    /// # Errors
    /// A file that is damaged or has no labels where others have, or a label that is missing, negative or of no class.
    pub fn labels(&self) -> Result<Option<Vec<u32>>, DataError> {
        if self.groups.iter().all(|group| group.content.labels.is_none()) {
            return Ok(None);
        }
        let classes = self.classes.as_ref().map_or(u32::MAX, |names| names.len() as u32);
        let (mut labels, mut without) = (Vec::new(), None);
        for group in &self.groups {
            let path = &self.place.full(&self.paths[group.file]);
            let Some(chunk) = &group.content.labels else {
                return Err(DataError::path(
                    path,
                    "has no column `label` of integers, which other files of the set have; give files of one set",
                ));
            };
            let unread = |e: io::Error| DataError::path(path, format!("its labels cannot be read: {e}; fetch or make it again"));
            for (label, row) in
                chunk.numbers(&self.place, &self.paths[group.file], group.content.rows).map_err(unread)?.into_iter().zip(group.first_row..)
            {
                let wrong = |what: &str| DataError::path(path, format!("row {row} has {what}; give every image the number of its class"));
                match (label, label.map(u32::try_from)) {
                    (Some(-1), _) => without = without.or(Some(wrong("-1 for a label, and others have labels"))),
                    (_, Some(Ok(label))) if label < classes => labels.push(label),
                    (Some(label), _) => return Err(wrong(&format!("the label {label}, which is no class"))),
                    (None, _) => return Err(wrong("no label")),
                }
            }
        }
        match without {
            Some(error) if !labels.is_empty() => Err(error),
            Some(_) => Ok(None),
            None => Ok(Some(labels)),
        }
    }

    /// What the classes are called, by their labels, where `datasets` wrote it.
    pub fn class_names(&self) -> Option<Vec<String>> {
        self.classes.clone()
    }

    fn group_of(&self, index: usize) -> &Group {
        &self.groups[self.group(index) as usize]
    }

    /// `FILE/ROW` of an image.
    pub fn name(&self, index: usize) -> String {
        let group = self.group_of(index);
        let file = self.paths[group.file].file_name().unwrap_or_default().to_string_lossy();
        format!("{file}/{:06}", group.first_row + index - group.first)
    }

    /// Which row group of the set an image is in: those of one are read together.
    pub fn group(&self, index: usize) -> u32 {
        self.groups.partition_point(|group| group.first <= index).saturating_sub(1) as u32
    }

    /// Bytes of a row group's images, as they are packed.
    pub fn group_bytes(&self, group: u32) -> u64 {
        self.groups[group as usize].content.images.length
    }

    /// An image's bytes. Its row group is read where it is not kept, once for all threads.
    ///
    /// # Errors
    /// A file that is gone or has become shorter; `InvalidData` where the row group is damaged or the row has no image.
    pub fn read(&self, index: usize) -> io::Result<Vec<u8>> {
        let group = self.group_of(index);
        let (path, content) = (&self.paths[group.file], &group.content);
        let images = self.cache.get(self.group(index), || content.images.images(&self.place, path, content.rows))?;
        match images.get(index - group.first) {
            Some(Some(image)) => Ok(image.data().to_vec()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its row has no image")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Fnv;
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::Path;

    fn fixtures(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources").join(folder);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn open(paths: Vec<PathBuf>) -> Result<Parquet, DataError> {
        Parquet::open(Place::folder(Path::new("/")), paths)
    }

    fn odd(name: &str) -> Result<Parquet, DataError> {
        open(fixtures("odd").into_iter().filter(|path| path.ends_with(format!("{name}.parquet"))).collect())
    }

    fn hash(bytes: &[u8]) -> String {
        let mut hash = Fnv::default();
        hash.add(bytes);
        format!("{:016x}", hash.0)
    }

    /// `tests/sources/make_sources.py` wrote the files, and what it put into them.
    #[test]
    fn files_that_datasets_wrote_have_the_images_that_it_was_given() {
        let expected = include_str!("../tests/fixtures/sources/expected.json");
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        let sources = expected.as_array().unwrap().iter().filter(|source| source["path"] != "shards");
        assert_eq!(sources.clone().count(), 5);
        for source in sources {
            let path = source["path"].as_str().unwrap();
            let set = open(fixtures(path)).unwrap();
            let images = source["images"].as_array().unwrap();
            assert_eq!(set.len(), images.len(), "{path}");
            assert_eq!(serde_json::json!(set.class_names()), source["classes"]);
            let labels = set.labels().unwrap().unwrap();
            // Backwards, with room for one row group: each is read for itself.
            for (index, image) in images.iter().enumerate().rev() {
                assert_eq!(set.name(index), image["name"].as_str().unwrap());
                assert_eq!(labels[index], image["label"]);
                assert_eq!(hash(&set.read(index).unwrap()), image["stored"].as_str().unwrap(), "{path} {index}");
            }
        }
        let set = open(fixtures("parquet")).unwrap();
        assert_eq!((0..6).map(|index| set.group(index)).collect::<Vec<_>>(), [0, 0, 1, 2, 2, 3]);
    }

    #[test]
    fn columns_of_other_layouts_are_found_or_told() {
        let content = |set: &Parquet, index| set.read(index).map(|bytes| String::from_utf8(bytes).unwrap());
        let set = odd("other_struct").unwrap();
        assert_eq!((content(&set, 3).unwrap().as_str(), set.labels().unwrap()), ("image 3", None));
        let set = odd("bytes").unwrap();
        assert_eq!((content(&set, 1).unwrap().as_str(), set.labels().unwrap()), ("image 1", Some(vec![3, 2, 1, 0])));
        let set = odd("dictionary").unwrap();
        assert_eq!((set.len(), content(&set, 797).unwrap().as_str(), set.class_names()), (800, "image 1", None));
        let set = odd("nulls").unwrap();
        assert_eq!([0, 3].map(|index| content(&set, index).unwrap()), ["image 0", "image 3"]);
        for index in [1, 2] {
            assert_eq!(set.read(index).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(odd("unlabelled").unwrap().labels().unwrap(), None);
        let says = |error: Option<DataError>, words: [&str; 2]| {
            let error = error.unwrap().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
        };
        says(odd("nulls").unwrap().labels().err(), ["nulls.parquet", "row 1 has no label"]);
        says(odd("negative").unwrap().labels().err(), ["negative.parquet", "row 1 has the label -2"]);
        says(odd("partly").unwrap().labels().err(), ["partly.parquet", "row 1 has -1"]);
        says(odd("text").err(), ["text.parquet", "no column of images"]);
        says(odd("brotli").err(), ["brotli.parquet", "packed by brotli"]);
        let both = [fixtures("zstd"), fixtures("odd").into_iter().filter(|path| path.ends_with("other_struct.parquet")).collect()].concat();
        says(open(both).unwrap().labels().err(), ["other_struct.parquet", "no column `label`"]);
        says(open(vec!["gone.parquet".into()]).err(), ["gone.parquet", "check the path"]);
    }

    /// A copy of a fixture's first file, to be changed.
    fn copy(of: &str, folder: &tempfile::TempDir) -> (PathBuf, fs::File, Vec<u8>) {
        let path = folder.path().join("a.parquet");
        fs::copy(&fixtures(of)[0], &path).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        (path, file, bytes)
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file, whole) = copy("parquet", &folder);
        let set = open(vec![path.clone()]).unwrap();
        for end in (0..whole.len() as u64).rev() {
            file.set_len(end).unwrap();
            let error = open(vec![path.clone()]).err().unwrap().to_string();
            assert!(error.contains("a.parquet: is not a whole Parquet file") && !error.contains('\n'), "{end}: {error}");
        }
        // One that became shorter while it was used.
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
                        unread += set.labels().is_err() as usize;
                        unread += (0..set.len()).filter(|&index| set.read(index).is_err()).count();
                    }
                }
                put(at, whole[at]);
            }
        }
        assert!(refused > 100 && unread > 100, "{refused} files refused, {unread} reads failed");
    }
}
