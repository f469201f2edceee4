//! Datasets written by other programs. `sources/make_sources.py` wrote the fixtures with WebDataset
//! and Hugging Face's `datasets`. With `--big FOLDER` it writes larger ones, which
//! `MIMCO_SOURCES=FOLDER cargo test --release -p mimco-data --test sources` reads too.

use mimco_data::augment::{RandomOperation, RandomView};
use mimco_data::loader::{Loader, LoaderOptions, ViewSpec};
use mimco_data::{Dataset, Filter, Rgb};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources")
}

/// Returns the FNV-1a hash, as the script computes it.
fn hash(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Asserts that every dataset in `expected.json` has the listed names, classes and pixels. `root`
/// may be another path to the same files.
fn assert_as_written(folder: &Path, root: &str) {
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    for source in expected.as_array().unwrap() {
        let path = format!("{root}/{}", source["path"].as_str().unwrap());
        let set = Dataset::open_labelled(Path::new(&path)).unwrap();
        let images = source["images"].as_array().unwrap();
        assert_eq!(set.len(), images.len(), "{path}");
        if !source["classes"].is_null() {
            assert_eq!(serde_json::json!(set.classes()), source["classes"], "{path}");
        }
        for (index, image) in images.iter().enumerate() {
            assert_eq!(set.name(index), image["name"].as_str().unwrap(), "{path}");
            let class = &set.classes()[set.label(index).unwrap() as usize];
            let named = source["classes"].get(image["label"].as_u64().unwrap() as usize);
            assert_eq!(*class, named.map_or(image["label"].to_string(), |name| name.as_str().unwrap().into()), "{path}");
            let Rgb { pixels, .. } = set.load(index).unwrap();
            if let Some(expected) = image["pixels"].as_str() {
                assert_eq!(hash(&pixels), expected, "{path}: {}", set.name(index));
            }
        }
    }
}

#[test]
fn datasets_of_webdataset_and_datasets_are_read_as_written() {
    assert_as_written(&fixtures(), &fixtures().display().to_string());
    if let Some(folder) = std::env::var_os("MIMCO_SOURCES") {
        assert_as_written(Path::new(&folder), &folder.to_string_lossy());
    }
}

/// The URLs of all stores are read in the same way; this one leads to the same files.
#[cfg(feature = "object-store")]
#[test]
fn an_object_stores_datasets_are_those_of_the_folder() {
    assert_as_written(&fixtures(), &format!("file://{}", fixtures().display()));
    let shards = format!("file://{}/shards/set-{{000000..000001}}.tar", fixtures().display());
    assert_eq!(Dataset::open_unlabelled(Path::new(&shards)).unwrap().len(), 6);
    assert_batches_are_reproducible(Path::new(&shards), 1);
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/2.png", "a/1.png", "a/.hidden.png", "note.txt"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(2, 2, image::Rgb([name.len() as u8, 0, 0])).save_with_format(path, image::ImageFormat::Png).unwrap();
    }
    let set = Dataset::open_labelled(Path::new(&format!("file://{}", folder.path().display()))).unwrap();
    assert_eq!((0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>(), ["a/1.png", "b/2.png"]);
    assert_eq!((set.classes(), set.load(1).unwrap().pixels[0]), (&["a".to_string(), "b".to_string()][..], 7));
}

#[cfg(not(feature = "object-store"))]
#[test]
fn a_build_without_object_stores_names_the_feature() {
    let error = Dataset::open_unlabelled(Path::new("s3://bucket/set-{000..001}.tar")).err().unwrap().to_string();
    assert!(error.contains("s3://bucket") && error.contains("--features object-store"), "{error}");
}

/// Asserts that an epoch of images read in groups has each image once, with any number of workers,
/// and that its batches do not depend on the first one.
fn assert_batches_are_reproducible(path: &Path, window: u64) {
    let batches = |workers: usize, epoch: u64, first: usize| -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
        let options = LoaderOptions { batch_size: 1, seed: 3, workers, queue: 4, image_size: 8, max_broken: 0.0 };
        let operations = vec![RandomOperation::Flip { probability: 0.5 }];
        let view = RandomView { crop_scale: (0.5, 1.0), filter: Filter::Bicubic, operations };
        let loader = Loader::new(Dataset::open_unlabelled(path).unwrap().with_window(window), ViewSpec::Random(vec![view]), options);
        loader.epoch(epoch, first).map(|batch| batch.map(|batch| (batch.indices, batch.views)).unwrap()).collect()
    };
    let whole = batches(1, 0, 0);
    let mut seen: Vec<u32> = whole.iter().flat_map(|(indices, _)| indices.clone()).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    assert!(batches(3, 0, 0) == whole);
    for first in 1..6 {
        assert!(batches(2, 0, first) == whole[first..], "{first}");
    }
    assert!((1..9).any(|epoch| batches(1, epoch, 0) != whole));
}

#[test]
fn an_epoch_over_parquet_resumes_at_any_batch() {
    for window in [1, 1 << 20] {
        assert_batches_are_reproducible(&fixtures().join("parquet"), window);
    }
}

#[test]
fn the_index_of_a_shard_is_used_if_it_matches() {
    let folder = tempfile::tempdir().unwrap();
    let (shard, index) = (folder.path().join("a.tar"), folder.path().join("a.idx"));
    std::fs::copy(fixtures().join("shards/set-000000.tar"), &shard).unwrap();
    let names = || -> Vec<String> {
        let set = Dataset::open_unlabelled(&shard).unwrap();
        (0..set.len()).map(|i| set.name(i)).collect()
    };
    let whole = names();
    // The position of the first image, after its header.
    let bytes = std::fs::read(&shard).unwrap();
    let start = bytes.windows(4).position(|four| four == b"\x89PNG").unwrap();
    assert_eq!(start % 512, 0);
    let size = std::str::from_utf8(&bytes[start - 512 + 124..start - 512 + 135]).unwrap();
    let length = u64::from_str_radix(size, 8).unwrap();
    let line = |name: &str, length: u64| format!("v1.2 1\npng {start} {length} {name}\n");
    std::fs::write(&index, line("000000.png", length)).unwrap();
    assert_eq!(names(), ["a.tar/000000.png"]);
    // An index of another archive does not match the headers.
    for other in [
        line("000000.png", length - 1),
        line("000009.png", length),
        "v1.2 2\n".to_string(),
        line("000000.png", 1 << 40),
        line("two names.png", 60),
        "v9\n".into(),
        String::new(),
    ] {
        std::fs::write(&index, &other).unwrap();
        assert_eq!(names(), whole, "{other}");
    }
    std::fs::write(&index, line("000000.png", length)).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options().write(true).open(&shard).unwrap().set_modified(later).unwrap();
    assert_eq!(names(), whole, "the shard was written after its index");
}
