//! Shards: WebDataset's tar archives, in which `KEY.jpg` and `KEY.cls` are one sample, and zip archives. An archive is looked through once for where
//! its images lie; then each is read there, in any order, as a file would be. Of archives far away neighbours are fetched together and kept.

use crate::DataError;
use crate::archives::{Contents, Member, look_into};
use crate::cache::Cache;
use crate::place::{MOST_BYTES, Place};
use flate2::read::DeflateDecoder;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shards that one name may stand for.
const MOST: usize = 1_000_000;

/// Archives that are looked through at once.
const READERS: usize = 8;

/// Bytes that are fetched together from far away.
const NEIGHBOURS: u64 = 8 << 20;

/// Images that are fetched together, at the most.
const MOST_NEIGHBOURS: usize = 10_000;

/// A list of class names beside shards, in JSON; `.cls` members are numbers in it.
pub(crate) const CLASSES: &str = "classes.json";

/// The images of some shards.
pub(crate) struct Shards {
    place: Place,
    shards: Vec<Shard>,
    len: usize,
    /// The first image of each group of neighbours; none where each image is read for itself.
    groups: Vec<u32>,
    pub cache: Cache<Vec<u8>>,
}

struct Shard {
    path: PathBuf,
    /// The first image's number in the set.
    first: usize,
    contents: Contents,
}

/// The archives that a path or URL names, and the folder that they lie in: one, or `name-{000000..000127}.tar`.
///
/// # Errors
/// A range that is none, an archive that is packed.
pub(crate) fn named(path: &Path) -> Result<Option<(PathBuf, Vec<PathBuf>)>, DataError> {
    let text = path.to_string_lossy();
    if path.is_dir() {
        return Ok(None);
    }
    let ends_in = |endings: &[&str]| endings.iter().any(|ending| text.to_lowercase().ends_with(ending));
    if ends_in(&[".tar.gz", ".tgz"]) {
        return Err(DataError::path(path, "is packed, and its images cannot be read where they lie; unpack it with gunzip first"));
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
        Some((from, to, digits, end)) if from <= to && to - from < MOST => {
            Ok(Some((folder.into(), (from..=to).map(|n| PathBuf::from(format!("{begin}{n:0digits$}{end}"))).collect())))
        }
        _ => Err(DataError::path(path, "names no range of shards; write it as name-{000000..000127}.tar")),
    }
}

impl Shards {
    /// Looks where the images of some archives lie, and with `labelled` what their classes are; several archives at once.
    ///
    /// # Errors
    /// An archive that is missing, cut short or none.
    pub fn open(place: Place, paths: Vec<PathBuf>, labelled: bool) -> Result<Shards, DataError> {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..READERS.min(paths.len()) {
                scope.spawn(|| {
                    while let Some((which, path)) = paths.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                        let contents = look_into(&place, path, labelled);
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
            let contents = contents.map_err(|e| DataError::path(place.full(&path), e))?;
            let first = len;
            len += contents.members.len();
            shards.push(Shard { path, first, contents });
        }
        let groups = if place.is_far() { neighbours(&shards) } else { Vec::new() };
        Ok(Shards { place, shards, len, groups, cache: Cache::default() })
    }

    /// Where they lie.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The shard of an image and its place in it.
    fn find(&self, index: usize) -> (&Shard, usize) {
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first <= index) - 1];
        (shard, index - shard.first)
    }

    /// `SHARD/NAME` of an image.
    pub fn name(&self, index: usize) -> String {
        let (shard, at) = self.find(index);
        let name = String::from_utf8_lossy(shard.contents.names.get(at));
        format!("{}/{name}", shard.path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Labels by the samples' `.cls`, named by `classes.json` beside the shards or by their numbers, else by the first folder of their names, and
    /// what the classes are called.
    ///
    /// # Errors
    /// An image with neither.
    pub fn labels(&self, path: &Path) -> Result<(Vec<u32>, Vec<String>), DataError> {
        let all = || self.shards.iter().map(|shard| &shard.contents);
        let numbers: Option<Vec<u32>> = all().flat_map(|contents| &contents.classes).copied().collect();
        if let (Some(numbers), Some(names)) = (&numbers, self.class_names())
            && numbers.iter().all(|&number| (number as usize) < names.len())
        {
            return Ok((numbers.clone(), names));
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
            DataError::path(path, "has images without labels: a class is a member KEY.cls beside KEY.jpg, or the first folder of a name")
        })?;
        let mut classes = own.clone();
        match numbers {
            Some(_) => classes.sort_by_key(|class| class.parse().unwrap_or(u32::MAX)),
            None => classes.sort(),
        }
        classes.dedup();
        let places: HashMap<&String, u32> = classes.iter().zip(0..).collect();
        let labels = own.iter().map(|class| places[class]).collect();
        Ok((labels, classes))
    }

    /// The list of class names beside the shards; another file of that name is no list.
    fn class_names(&self) -> Option<Vec<String>> {
        let list = self.shards.first()?.path.with_file_name(CLASSES);
        // Asked for only where it is there: what is not is waited for.
        if !self.place.is_far() && !self.place.full(&list).exists() {
            return None;
        }
        serde_json::from_slice(&self.place.read(&list, None).ok()?).ok()
    }

    /// An image's bytes.
    ///
    /// # Errors
    /// A shard that is gone or has become shorter.
    pub fn read(&self, index: usize) -> io::Result<Vec<u8>> {
        let (shard, at) = self.find(index);
        let member = shard.contents.members[at];
        let range = member.start..member.start + u64::from(member.length);
        let stored = match self.group(index) {
            None => self.place.read(&shard.path, Some(range))?,
            Some(group) => {
                let begin = self.groups[group as usize] as usize;
                let end = self.groups.get(group as usize + 1).map_or(self.len, |&end| end as usize);
                let (from, to) = span(&shard.contents.members[begin - shard.first..end - shard.first]);
                let fetch = || self.place.read(&shard.path, Some(from..to)).map(|bytes| (bytes, (to - from) as usize));
                let together = self.cache.get(group, fetch)?;
                let part = (range.start - from) as usize..(range.end - from) as usize;
                together.get(part).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec()
            }
        };
        if member.inflated == Member::STORED {
            return Ok(stored);
        }
        if u64::from(member.inflated) > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any image"));
        }
        let mut bytes = Vec::new();
        DeflateDecoder::new(&stored[..]).take(u64::from(member.inflated)).read_to_end(&mut bytes)?;
        if bytes.len() == member.inflated as usize { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Which images an image is fetched with.
    pub fn group(&self, index: usize) -> Option<u32> {
        Some(self.groups.partition_point(|&first| first as usize <= index) as u32).filter(|&group| group > 0).map(|group| group - 1)
    }

    /// Bytes of a group.
    pub fn group_bytes(&self, group: u32) -> u64 {
        let begin = self.groups[group as usize] as usize;
        let (shard, at) = self.find(begin);
        let count = self.groups.get(group as usize + 1).map_or(self.len, |&end| end as usize) - begin;
        let (from, to) = span(&shard.contents.members[at..at + count]);
        to - from
    }
}

/// The first image of each run of neighbours in a shard that are fetched together.
fn neighbours(shards: &[Shard]) -> Vec<u32> {
    let (mut groups, mut begin) = (Vec::new(), 0);
    for shard in shards {
        let mut whole = (u64::MAX, 0);
        for (at, member) in shard.contents.members.iter().enumerate() {
            let (from, to) = span(std::slice::from_ref(member));
            whole = (whole.0.min(from), whole.1.max(to));
            if at == 0 || whole.1 - whole.0 > NEIGHBOURS || at - begin == MOST_NEIGHBOURS {
                (whole, begin) = ((from, to), at);
                groups.push((shard.first + at) as u32);
            }
        }
    }
    groups
}

/// From the first to the last byte of some members.
fn span(members: &[Member]) -> (u64, u64) {
    let end = |member: &Member| member.start + u64::from(member.length);
    (members.iter().map(|m| m.start).min().unwrap_or(0), members.iter().map(end).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;
    use crate::augment::MimAugment;
    use crate::loader::{Loader, LoaderOptions};
    use crate::pipeline::Pipeline;

    fn png(grey: u8) -> Vec<u8> {
        crate::Rgb { width: 2, height: 2, pixels: vec![grey; 12] }.to_png().unwrap()
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
            let set = Dataset::labelled(path).unwrap();
            assert_eq!(names(&set)[..2], ["set-000.tar/a.png", "set-000.tar/b.png"]);
            assert_eq!((set.len(), set.classes()), (3, &["3".to_string(), "7".to_string()][..]));
            assert_eq!((0..3).map(|i| set.label(i)).collect::<Vec<_>>(), [Some(1), Some(0), Some(1)]);
            // In any order, and the same image whatever was read before.
            assert_eq!([2, 0, 1].map(|i| set.load(i).unwrap().pixels[0]), [30, 10, 20]);
            let heap = Dataset::heap(path).unwrap();
            assert_eq!((names(&heap), heap.label(0)), (names(&set), None));
        }
        let one = Dataset::heap(&folder.path().join("set-001.tar")).unwrap();
        assert_eq!(one.len(), 1);
        tar(&folder.path().join("classes.tar"), &[("hat/1.png", png(1)), ("shoe/2.png", png(2))]);
        let by_folder = Dataset::labelled(&folder.path().join("classes.tar")).unwrap();
        assert_eq!((by_folder.classes(), by_folder.label(1)), (&["hat".to_string(), "shoe".to_string()][..], Some(1)));
    }

    /// Order, draws and resume go by the sample's number alone, so a shard trains as the folder that it was made of, from any batch on.
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
            let pipeline = Pipeline::Mim(MimAugment { crop_scale: (0.5, 1.0), flip: 0.5 });
            let loader = Loader::new(Dataset::heap(path).unwrap(), pipeline, options);
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
        std::fs::write(&path, include_bytes!("../tests/fixtures/pictures.zip")).unwrap();
        let set = Dataset::labelled(&path).unwrap();
        assert_eq!(names(&set), ["set.zip/hat/a.png", "set.zip/shoe/b.png", "set.zip/shoe/c.png"]);
        assert_eq!((set.classes(), set.label(2)), (&["hat".to_string(), "shoe".to_string()][..], Some(1)));
        assert_eq!([1, 0, 2].map(|i| set.load(i).unwrap().pixels[..3].to_vec()), [[40, 50, 60], [10, 20, 30], [70, 80, 90]]);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(Dataset::heap(&path).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, changed).unwrap();
            if let Ok(set) = Dataset::heap(&path) {
                (0..set.len()).for_each(|i| drop(set.load(i))); // an image or an error
            }
        }
    }

    #[test]
    fn shards_that_are_damaged_or_gone_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        tar(&path, &[("a.png", png(1)), ("b.png", png(2))]);
        let whole = std::fs::read(&path).unwrap();
        let says = |path: &Path, word: &str| {
            let error = Dataset::heap(path).err().unwrap().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        };
        std::fs::write(&path, &whole[..560]).unwrap();
        says(&path, "ends within a.png");
        std::fs::write(&path, [&whole[..1024], &b"no header at all"[..], &[1; 600]].concat()).unwrap();
        says(&path, "not a whole tar archive");
        std::fs::write(&path, b"").unwrap();
        says(&path, "holds no images");
        says(&folder.path().join("gone.tar"), "check the path");
        says(&folder.path().join("b-{00..01}.tar"), "b-00.tar");
        says(&folder.path().join("b-{9..1}.tar"), "no range");
        says(&folder.path().join("b.tar.gz"), "gunzip");
        std::fs::write(&path, &whole).unwrap();
        let set = Dataset::heap(&path).unwrap();
        std::fs::write(&path, &whole[..600]).unwrap();
        assert!(set.load(1).err().unwrap().to_string().contains("a.tar/b.png"));
    }
}
