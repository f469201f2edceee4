//! Packed shards: their contents, that their bytes are reproducible, and which calls are errors.

use mimco_data::check::check;
use mimco_data::dataset::InMemoryImages;
use mimco_data::decode::{MAX_PIXELS, decode};
use mimco_data::pack::{Format, Outcome, PackOptions, PackReport, pack};
use mimco_data::{DataError, Dataset, Rgb};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const OPTIONS: PackOptions = PackOptions { size: 24, format: Format::Jpeg, quality: 92, shard_bytes: 12_000 };

fn picture(number: u32, width: u32, height: u32) -> Rgb {
    let shade = |x: u32, k: u32| (x * (3 + number * k % 7) * 4 % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [shade(x, 1), shade(y, 2), shade(x + y, 3)])).collect();
    Rgb { width, height, pixels }
}

fn jpeg(image: &Rgb) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 80);
    encoder.encode(&image.pixels, image.width, image.height, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)).unwrap()
}

/// Creates three classes of large and small images of several kinds, two of them broken.
fn source(folder: &Path) -> PathBuf {
    let root = folder.join("source");
    let put = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), bytes).unwrap();
    };
    for i in 0..9 {
        put(&format!("cat/{i}.jpg"), &jpeg(&picture(i, 60 + i, 40)));
    }
    put("cat/broken.jpg", &jpeg(&picture(1, 60, 40))[..500]);
    put("dog.s/a.b.png", &picture(3, 30, 50).to_png().unwrap());
    put("dog.s/same.jpg", &jpeg(&picture(4, 24, 90)));
    put("dog.s/same.png", &picture(5, 24, 24).to_png().unwrap());
    put("dog.s/turned.jpg", &fixture("orientation_6.jpg"));
    put("emu/animated.gif", &fixture("animated.gif"));
    put("emu/none.png", b"");
    put("emu/wrong.png", &jpeg(&picture(6, 10, 10)));
    root
}

fn run(source: &Path, out: &Path, options: &PackOptions, threads: usize) -> Result<PackReport, DataError> {
    pack(&Dataset::open_labelled(source).unwrap(), out, options, threads, |_| {}, &AtomicBool::new(false))
}

/// Returns every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())).collect()
}

/// Returns the members of all shards in order.
fn members(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut members = Vec::new();
    for (_, bytes) in files(folder).into_iter().filter(|(name, _)| name.ends_with(".tar")) {
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.mode().unwrap()), (0, 0, 0o644));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            members.push((entry.path().unwrap().to_string_lossy().into_owned(), content));
        }
    }
    members
}

#[test]
fn small_images_keep_their_files_and_large_ones_are_resized() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    let report = run(&source, &out, &OPTIONS, 2).unwrap();
    assert_eq!((report.outcome, report.images, report.shrunk, report.resumed), (Outcome::Finished, 15, 10, 0));
    assert_eq!(report.broken.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["cat/broken.jpg", "emu/none.png"]);
    assert!(report.shards >= 3, "{report:?}");
    let names: Vec<String> = (0..9).map(|i| format!("cat/{i}.jpg")).collect();
    let rest = ["dog.s/a_b.jpg", "dog.s/same_11.jpg", "dog.s/same_12.png", "dog.s/turned.jpg", "emu/animated.gif", "emu/wrong.jpg"];
    let expected: Vec<&str> = names.iter().map(String::as_str).chain(rest).collect();
    let members = members(&out);
    let (classes, images): (Vec<_>, Vec<_>) = members.iter().partition(|(name, _)| name.ends_with(".cls"));
    assert_eq!(images.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(classes.iter().map(|(_, class)| class[0]).collect::<Vec<_>>(), *b"000000000111122");
    for (packed, original) in [(10, "dog.s/same.jpg"), (11, "dog.s/same.png"), (12, "dog.s/turned.jpg"), (13, "emu/animated.gif")] {
        assert!(images[packed].1 == fs::read(source.join(original)).unwrap(), "{original} remains unchanged");
    }
    let first = decode(&images[8].1, "8", MAX_PIXELS).unwrap();
    assert_eq!((first.width, first.height), (40, 24), "68 x 40, rounded down");

    let back = Dataset::open_labelled(&out).unwrap();
    assert_eq!(back.classes(), ["cat", "dog.s", "emu"]);
    assert_eq!((0..15).map(|i| back.label(i).unwrap()).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
    assert!((0..15).all(|i| back.name(i).ends_with(expected[i]) && back.load(i).is_ok()));
    let broken = fs::read_to_string(out.join("broken.txt")).unwrap();
    assert!(broken.lines().count() == 2 && broken.starts_with("cat/broken.jpg: the JPEG is truncated"), "{broken}");
}

#[test]
fn raw_images_have_the_pixels_of_the_resized_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    run(&source, &out, &PackOptions { format: Format::Raw, ..OPTIONS }, 3).unwrap();
    let members: Vec<_> = members(&out).into_iter().filter(|(name, _)| !name.ends_with(".cls")).collect();
    assert!(members.len() == 15 && members.iter().all(|(name, bytes)| name.ends_with(".ppm") && bytes.starts_with(b"P6\n")));
    // Small images are exact, with their EXIF orientation applied.
    for (packed, original) in [(11, "same.png"), (12, "turned.jpg")] {
        let bytes = fs::read(source.join("dog.s").join(original)).unwrap();
        assert_eq!(decode(&members[packed].1, "packed", MAX_PIXELS).unwrap(), decode(&bytes, original, MAX_PIXELS).unwrap());
    }
    let back = Dataset::open_unlabelled(&out).unwrap();
    assert_eq!((back.len(), back.load(0).unwrap().height), (15, 24));
}

#[test]
fn a_packs_bytes_depend_neither_on_threads_nor_on_interruptions() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let dataset = Dataset::open_labelled(&source).unwrap();
    let whole = folder.path().join("whole");
    run(&source, &whole, &OPTIONS, 1).unwrap();
    let expected = files(&whole);
    for threads in [2, 3, 40] {
        let out = folder.path().join(format!("threads-{threads}"));
        run(&source, &out, &OPTIONS, threads).unwrap();
        assert!(files(&out) == expected, "{threads} threads");
    }
    let mut kept = std::collections::BTreeSet::new();
    for stop in [1, 5, 8, 10, 14, 16] {
        let out = folder.path().join(format!("stop-{stop}"));
        let interrupted = AtomicBool::new(false);
        let report = pack(&dataset, &out, &OPTIONS, 2, |done| interrupted.store(done == stop, Ordering::Relaxed), &interrupted).unwrap();
        assert_eq!(report.outcome, Outcome::Interrupted);
        kept.insert(report.shards);
        let shards: Vec<_> = files(&out).into_iter().filter(|(name, _)| name.ends_with(".tar")).collect();
        assert_eq!(shards.len(), report.shards);
        assert!(shards.iter().all(|(name, bytes)| bytes == &expected[name]), "only finished shards, which are final");
        // A killed process leaves a part of the next shard, or all of it but not listed.
        let next = format!("shard-{:06}.tar", report.shards);
        fs::write(out.join(if stop % 2 == 0 { format!("{next}.partial") } else { next }), "a part").unwrap();
        let resumed = run(&source, &out, &OPTIONS, 3).unwrap();
        assert!(resumed.outcome == Outcome::Finished && resumed.resumed <= stop);
        assert!(files(&out) == expected, "stopped after {stop}");
    }
    let shards = expected.keys().filter(|name| name.ends_with(".tar")).count();
    assert_eq!(kept, (0..shards).collect(), "it was stopped within each shard");
}

#[test]
fn a_finished_pack_stays_and_another_packs_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    let made = run(&source, &out, &OPTIONS, 2).unwrap();
    let before = files(&out);
    let again = run(&source, &out, &OPTIONS, 1).unwrap();
    assert_eq!(again, PackReport { outcome: Outcome::AlreadyFinished, resumed: 17, ..made });
    let refused = |options: &PackOptions, words: &[&str]| {
        let error = run(&source, &out, options, 1).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::Misuse { .. }) && !message.contains('\n'), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refused(&PackOptions { size: 32, quality: 90, ..OPTIONS }, &["size is 32, was 24, quality is 90, was 92", "--out"]);
    refused(&PackOptions { format: Format::Raw, ..OPTIONS }, &["format is raw, was jpeg"]);
    refused(&PackOptions { quality: 0, ..OPTIONS }, &["quality"]);
    fs::write(source.join("cat/new.png"), picture(1, 9, 9).to_png().unwrap()).unwrap();
    refused(&OPTIONS, &["other names or labels", "17 images"]);
    assert!(files(&out) == before);
    // A missing shard is an error.
    fs::remove_file(source.join("cat/new.png")).unwrap();
    fs::remove_file(out.join("shard-000001.tar")).unwrap();
    assert!(run(&source, &out, &OPTIONS, 1).unwrap_err().to_string().contains("shard-000001.tar: is missing"));
    // So are a folder with other files, and a damaged list.
    let mine = folder.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes.txt"), "mine").unwrap();
    assert!(run(&source, &mine, &OPTIONS, 1).unwrap_err().to_string().contains("contains other files (notes.txt)"));
    assert_eq!(files(&mine).len(), 1);
    fs::write(out.join("shards.json"), "{").unwrap();
    assert!(run(&source, &out, &OPTIONS, 1).unwrap_err().to_string().contains("shards.json: is not a complete list"));
}

#[test]
fn checksums_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    let report = run(&source, &out, &OPTIONS, 2).unwrap();
    let sums = check(&Dataset::open_unlabelled(&out).unwrap(), 2, |_| {}).checksums.unwrap();
    assert_eq!((sums.files, sums.wrong.len()), (report.shards, 0));
    // A byte of an image's data, whose change a decoder may not notice.
    let shard = out.join("shard-000001.tar");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1200] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    fs::remove_file(out.join("shard-000002.tar")).unwrap();
    let sums = check(&Dataset::open_unlabelled(&out).unwrap(), 2, |_| {}).checksums.unwrap();
    assert_eq!(sums.wrong.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["shard-000001.tar", "shard-000002.tar"]);
    let one = check(&Dataset::open_unlabelled(&shard).unwrap(), 2, |_| {}).checksums.unwrap();
    assert_eq!((one.files, one.wrong.len()), (1, 1));
    assert_eq!(check(&Dataset::open_unlabelled(&source).unwrap(), 2, |_| {}).checksums, None);
}

#[test]
fn a_dataset_in_memory_is_packed_losslessly_with_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = (0..3 * 28 * 28).map(|i| (i * 7 % 256) as u8).collect();
    let packed = InMemoryImages { width: 28, height: 28, channels: 1, pixels, labels: Some(vec![1, 0, 1]) };
    let set = Dataset::from_memory("digits", packed, vec!["zero".into(), "one".into()]);
    let out = folder.path().join("out");
    pack(&set, &out, &PackOptions { size: 28, ..OPTIONS }, 2, |_| {}, &AtomicBool::new(false)).unwrap();
    let back = Dataset::open_labelled(&out).unwrap();
    assert_eq!((back.name(2), back.classes()), ("shard-000000.tar/digits/000002.png".to_string(), set.classes()));
    assert!((0..3).all(|i| back.load(i).unwrap() == set.load(i).unwrap() && back.label(i) == set.label(i)));
}

#[test]
fn a_dataset_without_a_readable_image_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source/cat");
    fs::create_dir_all(&source).unwrap();
    (0..5).for_each(|i| fs::write(source.join(format!("{i}.jpg")), "text").unwrap());
    let error = run(&folder.path().join("source"), &folder.path().join("out"), &OPTIONS, 2).unwrap_err().to_string();
    assert!(error.contains("none of the 5 images") && error.contains("cat/0.jpg") && !error.contains('\n'), "{error}");
}

/// A device that is always full replaces the disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_packing_continues_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    let dataset = Dataset::open_labelled(&source).unwrap();
    let fill = |done: usize| {
        if done == 1 {
            std::os::unix::fs::symlink("/dev/full", out.join("shard-000001.tar.partial")).unwrap();
        }
    };
    let error = pack(&dataset, &out, &OPTIONS, 1, fill, &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("shard-000001.tar.partial: cannot be written: No space left"), "{error}");
    assert!(error.contains("run the same command again") && !error.contains('\n'), "{error}");
    assert_eq!(files(&out).into_keys().collect::<Vec<_>>(), ["shard-000000.idx", "shard-000000.tar", "shards.json"]);
    assert!(run(&source, &out, &OPTIONS, 1).unwrap().resumed > 0);
    let whole = folder.path().join("whole");
    run(&source, &whole, &OPTIONS, 1).unwrap();
    assert!(files(&out) == files(&whole));
}

#[cfg(unix)]
#[test]
fn a_folder_without_write_permission_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(out.join(".try"), "").is_ok() {
        // This user may write everywhere, so a folder blocks the list's name instead.
        fs::create_dir(out.join("shards.json.partial")).unwrap();
    }
    let error = run(&source, &out, &OPTIONS, 1).unwrap_err().to_string();
    assert!(error.contains("shards.json: cannot be written") && !error.contains('\n'), "{error}");
    let error = run(&source, &source.join("cat/0.jpg/out"), &OPTIONS, 1).unwrap_err().to_string();
    assert!(error.contains("cannot be created") && error.contains("--out"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn two_processes_cannot_pack_into_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (source(folder.path()), folder.path().join("out"));
    let second = |done: usize| {
        if done == 1 {
            let error = run(&source, &out, &OPTIONS, 1).unwrap_err().to_string();
            assert!(error.contains("another process"), "{error}");
        }
    };
    pack(&Dataset::open_labelled(&source).unwrap(), &out, &OPTIONS, 2, second, &AtomicBool::new(false)).unwrap();
}
