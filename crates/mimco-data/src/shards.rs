//! Archives of images: WebDataset's shards, tar archives in which `KEY.jpg` and `KEY.cls` are one sample, and zip archives. An archive is read once
//! for where its images lie; then each is read there, in any order, as a file would be.

use crate::DataError;
use flate2::read::DeflateDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Shards that one name may stand for.
const MOST: usize = 1_000_000;

/// A byte of deflated data never becomes more.
const MOST_INFLATED: u64 = 1032;

/// Where an image lies.
pub(crate) struct Member {
    /// Which shard.
    shard: usize,
    /// Its first byte there.
    start: u64,
    /// Its bytes there.
    length: u64,
    /// Its bytes as a file, where a zip archive has it deflated.
    inflated: Option<u64>,
}

/// The images of some shards.
#[derive(Default)]
pub(crate) struct Shards {
    paths: Vec<PathBuf>,
    pub members: Vec<Member>,
    /// `SHARD/NAME` of each.
    pub names: Vec<String>,
    /// What its `.cls` holds; where all have one, they are labels.
    pub classes: Vec<Option<u32>>,
}

/// The archives that a path names: one, `name-{000000..000127}.tar`, or the tar archives of a folder.
///
/// # Errors
/// A range that is none, an archive that is packed.
pub(crate) fn named(path: &Path) -> Result<Option<Vec<PathBuf>>, DataError> {
    let text = path.to_string_lossy();
    if text.ends_with(".tar.gz") || text.ends_with(".tgz") {
        return Err(DataError::path(path, "is packed, and its images cannot be read where they lie; unpack it with gunzip first"));
    }
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| DataError::path(path, format!("cannot be read: {e}")))?;
        let mut tars: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_tar(path)).collect();
        tars.sort_unstable();
        return Ok((!tars.is_empty()).then_some(tars));
    }
    if text.to_lowercase().ends_with(".zip") {
        return Ok(Some(vec![path.to_path_buf()]));
    }
    if !text.ends_with(".tar") {
        return Ok(None);
    }
    let Some((begin, rest)) = text.split_once('{').filter(|_| !path.exists()) else { return Ok(Some(vec![path.to_path_buf()])) };
    let range = rest.split_once('}').and_then(|(range, end)| Some((range.split_once("..")?, end)));
    let numbers = range.and_then(|((from, to), end)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?, from.len(), end)));
    match numbers {
        Some((from, to, digits, end)) if from <= to && to - from < MOST => {
            Ok(Some((from..=to).map(|n| PathBuf::from(format!("{begin}{n:0digits$}{end}"))).collect()))
        }
        _ => Err(DataError::path(path, "names no range of shards; write it as name-{000000..000127}.tar")),
    }
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar")) && path.is_file()
}

impl Shards {
    /// Looks where the images of some archives lie; `is_image` by a member's name.
    ///
    /// # Errors
    /// An archive that is missing, cut short or none.
    pub fn open(paths: Vec<PathBuf>, is_image: impl Fn(&Path) -> bool) -> Result<Shards, DataError> {
        let mut shards = Shards::default();
        for (shard, path) in paths.iter().enumerate() {
            let zipped = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("zip"));
            let looked = if zipped { shards.look_into_zip(shard, path, &is_image) } else { shards.look_into_tar(shard, path, &is_image) };
            looked.map_err(|e| DataError::path(path, e))?;
        }
        shards.paths = paths;
        Ok(shards)
    }

    fn look_into_tar(&mut self, shard: usize, path: &Path, is_image: impl Fn(&Path) -> bool) -> Result<(), String> {
        let file = File::open(path).map_err(|e| format!("cannot be read: {e}; check the path"))?;
        let whole = file.metadata().map_err(|e| format!("cannot be read: {e}"))?.len();
        let mut archive = tar::Archive::new(file);
        let damaged = |e: std::io::Error| format!("is not a whole tar archive ({e}); fetch or make it again");
        let shard_name = path.file_name().unwrap_or_default().to_string_lossy();
        let first = self.members.len();
        let mut keys = Vec::new();
        let mut classes = HashMap::new();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (start, length) = (entry.raw_file_position(), entry.size());
            if start.checked_add(length).is_none_or(|end| end > whole) {
                return Err(format!("is not a whole tar archive (it ends within {}); fetch or make it again", name.escape_debug()));
            }
            let hidden = name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
            if !entry.header().entry_type().is_file() || hidden {
                continue;
            }
            if is_image(Path::new(&name)) {
                keys.push(key(&name).to_string());
                self.names.push(format!("{shard_name}/{name}"));
                self.members.push(Member { shard, start, length, inflated: None });
            } else if name.ends_with(".cls") && length <= 32 {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(damaged)?;
                classes.extend(text.trim().parse::<u32>().ok().map(|class| (key(&name).to_string(), class)));
            }
        }
        debug_assert_eq!(first + keys.len(), self.members.len());
        self.classes.extend(keys.iter().map(|key| classes.get(key).copied()));
        Ok(())
    }

    /// A zip archive's directory is read; what it says is checked against the file.
    fn look_into_zip(&mut self, shard: usize, path: &Path, is_image: impl Fn(&Path) -> bool) -> Result<(), String> {
        let file = File::open(path).map_err(|e| format!("cannot be read: {e}; check the path"))?;
        let whole = file.metadata().map_err(|e| format!("cannot be read: {e}"))?.len();
        let damaged = |e: zip::result::ZipError| format!("is not a whole zip archive ({e}); fetch or make it again");
        let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(damaged)?;
        let archive_name = path.file_name().unwrap_or_default().to_string_lossy();
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let hidden = name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
            if !entry.is_file() || hidden || !is_image(Path::new(&name)) {
                continue;
            }
            let (start, length) = (entry.data_start().unwrap_or(u64::MAX), entry.compressed_size());
            let inflated = match entry.compression() {
                _ if entry.encrypted() => return Err("is encrypted; unpack it to a folder".into()),
                zip::CompressionMethod::Stored => None,
                zip::CompressionMethod::Deflated => Some(entry.size()),
                other => return Err(format!("is packed by {other}; pack it by deflate, or not at all")),
            };
            let inside = start.checked_add(length).is_some_and(|end| end <= whole);
            if !inside || inflated.is_some_and(|size| size / MOST_INFLATED > length) {
                return Err(format!("is not a whole zip archive ({} is not in it); fetch or make it again", name.escape_debug()));
            }
            self.names.push(format!("{archive_name}/{name}"));
            self.members.push(Member { shard, start, length, inflated });
            self.classes.push(None);
        }
        Ok(())
    }

    /// Labels by the samples' `.cls`, else by the first folder of their names, and what the classes are called.
    ///
    /// # Errors
    /// An image with neither.
    pub fn labels(&self, path: &Path) -> Result<(Vec<u32>, Vec<String>), DataError> {
        let numbers: Option<Vec<u32>> = self.classes.iter().copied().collect();
        // The first part of a name is its shard.
        let folder = |name: &String| name.split('/').nth(1).filter(|_| name.split('/').count() > 2).map(str::to_string);
        let own: Option<Vec<String>> = match &numbers {
            Some(numbers) => Some(numbers.iter().map(u32::to_string).collect()),
            None => self.names.iter().map(folder).collect(),
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

    /// The shard of an image.
    pub fn path(&self, index: usize) -> &Path {
        &self.paths[self.members[index].shard]
    }

    /// An image's bytes.
    ///
    /// # Errors
    /// A shard that is gone or has become shorter.
    pub fn read(&self, index: usize) -> std::io::Result<Vec<u8>> {
        let Member { shard, start, length, inflated } = self.members[index];
        let mut file = File::open(&self.paths[shard])?;
        file.seek(SeekFrom::Start(start))?;
        let (mut bytes, mut stored) = (Vec::new(), file.take(length));
        match inflated {
            None => stored.read_to_end(&mut bytes)?,
            Some(size) => DeflateDecoder::new(stored).take(size).read_to_end(&mut bytes)?,
        };
        if bytes.len() as u64 != inflated.unwrap_or(length) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// What the members of a sample share: the name up to the first dot behind the folders.
fn key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;
    use crate::augment::MimAugment;
    use crate::loader::{Loader, LoaderOptions, Pipeline};

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
