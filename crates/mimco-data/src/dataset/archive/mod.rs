//! Shards: WebDataset's tar archives, in which `KEY.jpg` and `KEY.cls` are one sample, and zip
//! archives.
//!
//! An archive is scanned once for the positions of its images. Each image is then read by its
//! position, in any order. From an object store, neighboring images are fetched together and
//! cached.

mod members;

use crate::dataset::ImageSource;
use crate::dataset::group_cache::GroupCache;
use crate::error::DataError;
use crate::storage::{MAX_BYTES, Storage};
use flate2::read::DeflateDecoder;
use members::{Contents, Member, scan};
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Limit of the number of shards of one pattern.
const MAX_SHARDS: usize = 1_000_000;

/// Number of archives scanned in parallel.
const READERS: usize = 8;

/// Bytes that are fetched together from an object store.
const GROUP_BYTES: u64 = 8 << 20;

/// Limit of the number of images that are fetched together.
const GROUP_IMAGES: usize = 10_000;

/// Name of the JSON list of class names in a folder of shards; `.cls` members are indices into it.
pub(crate) const CLASS_NAMES: &str = "classes.json";

/// The images of some shards.
pub(crate) struct Shards {
    /// The path or URL as the user gave it, without secrets.
    location: String,
    storage: Storage,
    shards: Vec<Shard>,
    len: usize,
    /// The class of each image, once read.
    labels: Option<Vec<u32>>,
    /// The first image of each group that is fetched together; empty if images are read one by one.
    groups: Vec<u32>,
    cache: GroupCache<Vec<u8>>,
}

struct Shard {
    path: PathBuf,
    /// Number of the shard's first image in the dataset.
    first: usize,
    contents: Contents,
}

/// Returns the folder and the names of the archives that a path or URL names: a single archive, or
/// `name-{000000..000127}.tar`. Returns `None` if the path does not name archives.
///
/// # Errors
/// Fails for an invalid range, and for a compressed tar archive.
pub(crate) fn named(path: &Path) -> Result<Option<(PathBuf, Vec<PathBuf>)>, DataError> {
    let text = path.to_string_lossy();
    if path.is_dir() {
        return Ok(None);
    }
    let ends_in = |endings: &[&str]| endings.iter().any(|ending| text.to_lowercase().ends_with(ending));
    if ends_in(&[".tar.gz", ".tgz"]) {
        return Err(DataError::path(path, "is compressed, so its images cannot be read in place; decompress it with gunzip first"));
    }
    if !ends_in(&[".tar", ".zip", ".parquet"]) {
        return Ok(None);
    }
    let range = text.split_once('{').filter(|_| !path.exists());
    let begin = range.map_or(&*text, |(begin, _)| begin);
    let split = begin.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = text.split_at(split);
    let Some((begin, rest)) = name.split_once('{').filter(|_| range.is_some()) else {
        return Ok(Some((folder.into(), vec![name.into()])));
    };
    let range = rest.split_once('}').and_then(|(range, end)| Some((range.split_once("..")?, end)));
    let numbers = range.and_then(|((from, to), end)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?, from.len(), end)));
    match numbers {
        Some((from, to, digits, end)) if from <= to && to - from < MAX_SHARDS => {
            Ok(Some((folder.into(), (from..=to).map(|n| PathBuf::from(format!("{begin}{n:0digits$}{end}"))).collect())))
        }
        _ => Err(DataError::path(path, "has no valid range of shards; write it as name-{000000..000127}.tar")),
    }
}

impl Shards {
    /// Scans archives for the positions of their images and, with `labelled`, their `.cls` members.
    ///
    /// # Errors
    /// Fails if an archive is missing, truncated or not an archive.
    pub fn open(location: String, storage: Storage, paths: Vec<PathBuf>, labelled: bool) -> Result<Shards, DataError> {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..READERS.min(paths.len()) {
                scope.spawn(|| {
                    while let Some((which, path)) = paths.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                        let contents = scan(&storage, path, labelled);
                        if let Ok(mut found) = found.lock() {
                            found.push((which, contents));
                        }
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_default();
        found.sort_unstable_by_key(|(which, _)| *which);
        let (mut shards, mut len) = (Vec::new(), 0);
        for ((_, contents), path) in found.into_iter().zip(paths) {
            let contents = contents.map_err(|e| DataError::path(storage.join(&path), e))?;
            let first = len;
            len += contents.members.len();
            shards.push(Shard { path, first, contents });
        }
        let groups = if storage.is_remote() { group_neighbors(&shards) } else { Vec::new() };
        Ok(Shards { location, storage, shards, len, labels: None, groups, cache: GroupCache::default() })
    }

    /// Returns an image's shard and the image's index in it.
    fn find(&self, index: usize) -> (&Shard, usize) {
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first <= index) - 1];
        (shard, index - shard.first)
    }

    /// Assigns every image its class and returns the names of the classes. The class is that of the
    /// sample's `.cls` member, named by `classes.json` next to the shards or by its number. Without
    /// `.cls` members it is the first folder of the image's name.
    ///
    /// # Errors
    /// Fails if an image has neither.
    pub fn read_labels(&mut self, path: &Path) -> Result<Vec<String>, DataError> {
        let all = || self.shards.iter().map(|shard| &shard.contents);
        let numbers: Option<Vec<u32>> = all().flat_map(|contents| &contents.classes).copied().collect();
        if let (Some(numbers), Some(names)) = (&numbers, self.class_names())
            && numbers.iter().all(|&number| (number as usize) < names.len())
        {
            self.labels = Some(numbers.clone());
            return Ok(names);
        }
        let folder = |name: &[u8]| {
            let name = String::from_utf8_lossy(name);
            name.split_once('/').map(|(folder, _)| folder.to_string())
        };
        let own: Option<Vec<String>> = match &numbers {
            Some(numbers) => Some(numbers.iter().map(u32::to_string).collect()),
            None => all().flat_map(|contents| contents.names.iter()).map(folder).collect(),
        };
        let own = own.ok_or_else(|| {
            DataError::path(
                path,
                "has images without labels: a class is a member KEY.cls of the sample KEY.jpg, or the first folder of a name",
            )
        })?;
        let mut classes = own.clone();
        match numbers {
            Some(_) => classes.sort_by_key(|class| class.parse().unwrap_or(u32::MAX)),
            None => classes.sort(),
        }
        classes.dedup();
        let indices: HashMap<&String, u32> = classes.iter().zip(0..).collect();
        self.labels = Some(own.iter().map(|class| indices[class]).collect());
        Ok(classes)
    }

    /// Reads the list of class names next to the shards; a file that is not a list is ignored.
    fn class_names(&self) -> Option<Vec<String>> {
        let list = self.shards.first()?.path.with_file_name(CLASS_NAMES);
        // Checked first, as reading a missing file is retried.
        if !self.storage.is_remote() && !self.storage.join(&list).exists() {
            return None;
        }
        serde_json::from_slice(&self.storage.read(&list, None).ok()?).ok()
    }
}

impl ImageSource for Shards {
    fn len(&self) -> usize {
        self.len
    }

    /// Returns `SHARD/NAME` of an image.
    fn name(&self, image: usize) -> String {
        let (shard, at) = self.find(image);
        let name = String::from_utf8_lossy(shard.contents.names.get(at));
        format!("{}/{name}", shard.path.file_name().unwrap_or_default().to_string_lossy())
    }

    fn label(&self, image: usize) -> Option<u32> {
        Some(self.labels.as_ref()?[image])
    }

    fn location(&self) -> String {
        self.location.clone()
    }

    fn read(&self, image: usize) -> io::Result<Vec<u8>> {
        let (shard, at) = self.find(image);
        let member = shard.contents.members[at];
        let range = member.start..member.start + u64::from(member.length);
        let stored = match self.group(image) {
            None => self.storage.read(&shard.path, Some(range))?,
            Some(group) => {
                let begin = self.groups[group as usize] as usize;
                let end = self.groups.get(group as usize + 1).map_or(self.len, |&end| end as usize);
                let (from, to) = span(&shard.contents.members[begin - shard.first..end - shard.first]);
                let fetch = || self.storage.read(&shard.path, Some(from..to)).map(|bytes| (bytes, (to - from) as usize));
                let together = self.cache.get(group, fetch)?;
                let part = (range.start - from) as usize..(range.end - from) as usize;
                together.get(part).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec()
            }
        };
        if member.inflated == Member::STORED {
            return Ok(stored);
        }
        if u64::from(member.inflated) > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the image is larger than 1 GiB"));
        }
        let mut bytes = Vec::new();
        DeflateDecoder::new(&stored[..]).take(u64::from(member.inflated)).read_to_end(&mut bytes)?;
        if bytes.len() == member.inflated as usize { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn is_transient(&self, error: &io::Error) -> bool {
        self.storage.is_transient(error)
    }

    fn group(&self, image: usize) -> Option<u32> {
        Some(self.groups.partition_point(|&first| first as usize <= image) as u32).filter(|&group| group > 0).map(|group| group - 1)
    }

    fn group_bytes(&self, group: u32) -> u64 {
        let begin = self.groups[group as usize] as usize;
        let (shard, at) = self.find(begin);
        let count = self.groups.get(group as usize + 1).map_or(self.len, |&end| end as usize) - begin;
        let (from, to) = span(&shard.contents.members[at..at + count]);
        to - from
    }

    fn set_cache_bytes(&self, bytes: usize) {
        self.cache.set_capacity(bytes);
    }
}

/// Returns the first image of each run of neighbors in a shard that are fetched together.
fn group_neighbors(shards: &[Shard]) -> Vec<u32> {
    let (mut groups, mut begin) = (Vec::new(), 0);
    for shard in shards {
        let mut whole = (u64::MAX, 0);
        for (at, member) in shard.contents.members.iter().enumerate() {
            let (from, to) = span(std::slice::from_ref(member));
            whole = (whole.0.min(from), whole.1.max(to));
            if at == 0 || whole.1 - whole.0 > GROUP_BYTES || at - begin == GROUP_IMAGES {
                (whole, begin) = ((from, to), at);
                groups.push((shard.first + at) as u32);
            }
        }
    }
    groups
}

/// Returns the first byte of some members and the byte after their last.
fn span(members: &[Member]) -> (u64, u64) {
    let end = |member: &Member| member.start + u64::from(member.length);
    (members.iter().map(|m| m.start).min().unwrap_or(0), members.iter().map(end).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Filter, RandomOperation, RandomView};
    use crate::dataset::Dataset;
    use crate::decode::Rgb;
    use crate::loader::{Loader, LoaderOptions, ViewSpec};

    fn png(gray: u8) -> Vec<u8> {
        Rgb { width: 2, height: 2, pixels: vec![gray; 12] }.to_png().unwrap()
    }

    fn tar(path: &Path, members: &[(&str, Vec<u8>)]) {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        std::fs::write(path, archive.into_inner().unwrap()).unwrap();
    }

    fn names(set: &Dataset) -> Vec<String> {
        (0..set.len()).map(|i| set.name(i)).collect()
    }

    #[test]
    fn samples_of_shards_are_images_with_their_classes() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/c.png", "deep/".repeat(40));
        tar(
            &folder.path().join("set-000.tar"),
            &[("a.png", png(10)), ("a.cls", b"7\n".to_vec()), ("a.json", b"{}".to_vec()), ("b.cls", b"3".to_vec()), ("b.png", png(20))],
        );
        tar(&folder.path().join("set-001.tar"), &[(&long, png(30)), (&long.replace("png", "cls"), b"7".to_vec()), (".x.png", png(1))]);
        let pattern = folder.path().join("set-{000..001}.tar");
        for path in [&pattern, &folder.path().to_path_buf()] {
            let set = Dataset::open_labelled(path).unwrap();
            assert_eq!(names(&set)[..2], ["set-000.tar/a.png", "set-000.tar/b.png"]);
            assert_eq!((set.len(), set.classes()), (3, &["3".to_string(), "7".to_string()][..]));
            assert_eq!((0..3).map(|i| set.label(i)).collect::<Vec<_>>(), [Some(1), Some(0), Some(1)]);
            // In any order: an image does not depend on what was read before.
            assert_eq!([2, 0, 1].map(|i| set.load(i).unwrap().pixels[0]), [30, 10, 20]);
            let unlabelled = Dataset::open_unlabelled(path).unwrap();
            assert_eq!((names(&unlabelled), unlabelled.label(0)), (names(&set), None));
        }
        let one = Dataset::open_unlabelled(&folder.path().join("set-001.tar")).unwrap();
        assert_eq!(one.len(), 1);
        tar(&folder.path().join("classes.tar"), &[("hat/1.png", png(1)), ("shoe/2.png", png(2))]);
        let by_folder = Dataset::open_labelled(&folder.path().join("classes.tar")).unwrap();
        assert_eq!((by_folder.classes(), by_folder.label(1)), (&["hat".to_string(), "shoe".to_string()][..], Some(1)));
    }

    /// Order, random draws and resuming depend on the sample's number alone, so a shard gives the
    /// batches of the folder it was made from, starting at any batch.
    #[test]
    fn a_shard_gives_the_batches_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<(String, Vec<u8>)> = (0..9).map(|i| (format!("{i}.png"), png(i * 20))).collect();
        let files = folder.path().join("files");
        std::fs::create_dir(&files).unwrap();
        members.iter().for_each(|(name, bytes)| std::fs::write(files.join(name), bytes).unwrap());
        let shard = folder.path().join("a.tar");
        tar(&shard, &members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
        let batches = |path: &Path, first: usize| -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
            let options = LoaderOptions { batch_size: 2, seed: 3, workers: 2, queue: 4, image_size: 2, max_broken: 0.0 };
            let operations = vec![RandomOperation::Flip { probability: 0.5 }];
            let view = RandomView { crop_scale: (0.5, 1.0), filter: Filter::Bicubic, operations };
            let loader = Loader::new(Dataset::open_unlabelled(path).unwrap(), ViewSpec::Random(vec![view]), options);
            loader.epoch(1, first).map(|batch| batch.map(|batch| (batch.indices, batch.views)).unwrap()).collect()
        };
        let whole = batches(&files, 0);
        assert_eq!(whole.len(), 4);
        assert!(batches(&shard, 0) == whole && batches(&shard, 2) == whole[2..]);
    }

    #[test]
    fn a_zip_archive_is_a_set_stored_or_deflated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.zip");
        std::fs::write(&path, include_bytes!("../../../tests/fixtures/pictures.zip")).unwrap();
        let set = Dataset::open_labelled(&path).unwrap();
        assert_eq!(names(&set), ["set.zip/hat/a.png", "set.zip/shoe/b.png", "set.zip/shoe/c.png"]);
        assert_eq!((set.classes(), set.label(2)), (&["hat".to_string(), "shoe".to_string()][..], Some(1)));
        assert_eq!([1, 0, 2].map(|i| set.load(i).unwrap().pixels[..3].to_vec()), [[40, 50, 60], [10, 20, 30], [70, 80, 90]]);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(Dataset::open_unlabelled(&path).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, changed).unwrap();
            if let Ok(set) = Dataset::open_unlabelled(&path) {
                (0..set.len()).for_each(|i| drop(set.load(i))); // an image or an error
            }
        }
    }

    #[test]
    fn damaged_and_missing_shards_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        tar(&path, &[("a.png", png(1)), ("b.png", png(2))]);
        let whole = std::fs::read(&path).unwrap();
        let fails = |path: &Path, word: &str| {
            let error = Dataset::open_unlabelled(path).err().unwrap().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        };
        std::fs::write(&path, &whole[..560]).unwrap();
        fails(&path, "ends within a.png");
        std::fs::write(&path, [&whole[..1024], &b"no header at all"[..], &[1; 600]].concat()).unwrap();
        fails(&path, "not a complete tar archive");
        std::fs::write(&path, b"").unwrap();
        fails(&path, "contains no images");
        fails(&folder.path().join("gone.tar"), "check the path");
        fails(&folder.path().join("b-{00..01}.tar"), "b-00.tar");
        fails(&folder.path().join("b-{9..1}.tar"), "no valid range");
        fails(&folder.path().join("b.tar.gz"), "gunzip");
        std::fs::write(&path, &whole).unwrap();
        let set = Dataset::open_unlabelled(&path).unwrap();
        std::fs::write(&path, &whole[..600]).unwrap();
        assert!(set.load(1).err().unwrap().to_string().contains("a.tar/b.png"));
    }
}
