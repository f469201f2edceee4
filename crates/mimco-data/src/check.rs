//! Checking every image of a dataset before training: broken, unusual and duplicate images.

use crate::dataset::Dataset;
use crate::decode::header::{ImageHeader, format_name, read_header};
use crate::error::DataError;
use crate::pack::checksums::{self, Checksums};
use image::ImageFormat;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of unusual images that a report lists; all are counted.
pub const MAX_LISTED: usize = 1000;

/// Images with a shorter side, in pixels, are unusually small.
const MIN_SIDE: u32 = 32;

/// Images with a larger ratio of the longer to the shorter side are unusually long.
const MAX_RATIO: u32 = 8;

/// The result of checking a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// Number of images.
    pub images: usize,
    /// Names of images that cannot be read, with the reasons.
    pub broken: Vec<(String, String)>,
    /// Smallest, median and largest width in pixels.
    pub widths: [u32; 3],
    /// Smallest, median and largest height in pixels.
    pub heights: [u32; 3],
    /// Number of images without color.
    pub gray: usize,
    /// Names of files with equal bytes, in groups.
    pub duplicates: Vec<Vec<String>>,
    /// Mean of each channel, values from 0 to 1; every image has the same weight.
    pub mean: [f64; 3],
    /// Std of each channel, computed likewise.
    pub std: [f64; 3],
    /// Number of images per format, by the content of the files: `JPEG`, `PNG` and so on. Empty for
    /// a dataset in memory.
    pub formats: BTreeMap<&'static str, usize>,
    /// Number of images per kind of stored pixel: `grey`, `RGB`, `RGBA`, `palette`, `CMYK`, `16-bit
    /// grey` and so on. Empty for a dataset in memory.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Number of images that EXIF data rotate or mirror, which is applied when they are read.
    pub exif_rotated: usize,
    /// Number of animations, of which the first frame is used.
    pub animated: usize,
    /// Number of unusual images per reason: `ending` (the content does not match the extension),
    /// `small` (shorter side under 32 px), `long` (longer side over 8 times the shorter),
    /// `animated`. An image may have several reasons.
    pub unusual_counts: BTreeMap<&'static str, usize>,
    /// Names of unusual images with the reasons: the first [`MAX_LISTED`] in the order of the dataset.
    pub unusual: Vec<(String, String)>,
    /// Verified checksums, for shards in a folder with `SHA256SUMS`.
    pub checksums: Option<Checksums>,
}

/// A readable image, in few bytes, as there may be millions.
struct Seen {
    /// First 8 bytes of the SHA-256 of the stored bytes.
    hash: u64,
    index: u32,
    width: u32,
    height: u32,
    /// `None` for a dataset in memory.
    header: Option<ImageHeader>,
}

/// The results of one thread. Sums are integers, so they do not depend on the order of images.
#[derive(Default)]
struct Tally {
    seen: Vec<Seen>,
    broken: Vec<(usize, (String, String))>,
    gray: usize,
    /// Sums of the images' channel means, values from 0 to 255 in units of 2^-32.
    means: [u128; 3],
    /// Sums of the images' mean squares, in the same units.
    squares: [u128; 3],
}

/// Decodes every image on `threads` threads, and verifies shards that have checksums. `progress` is
/// called with the number of decoded images. The report does not depend on the number of threads.
pub fn check(dataset: &Dataset, threads: usize, progress: impl Fn(usize) + Sync) -> CheckReport {
    let all: Mutex<Tally> = Mutex::default();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut tally = Tally::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= dataset.len() {
                        break;
                    }
                    tally.check(dataset, index);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
                if let Ok(mut all) = all.lock() {
                    all.add(tally);
                }
            });
        }
    });
    let report = all.into_inner().unwrap_or_default().report(dataset);
    CheckReport { checksums: checksums::verify(dataset, threads), ..report }
}

impl Tally {
    /// Decodes an image and records the result.
    fn check(&mut self, dataset: &Dataset, index: usize) {
        let read = dataset.raw(index).and_then(|raw| Ok((dataset.decode_raw(index, &raw)?, raw)));
        let (image, raw) = match read {
            Ok(read) => read,
            Err(DataError::Image { name, what } | DataError::Unread { name, what, .. }) => return self.broken.push((index, (name, what))),
            Err(other) => return self.broken.push((index, (dataset.name(index), other.to_string()))),
        };
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&raw));
        let hash = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let (mut sums, mut squares) = ([0u64; 3], [0u64; 3]);
        let mut gray = true;
        for pixel in image.pixels.chunks_exact(3) {
            for c in 0..3 {
                sums[c] += pixel[c] as u64;
                squares[c] += (pixel[c] as u64).pow(2);
            }
            gray &= pixel[0] == pixel[1] && pixel[1] == pixel[2];
        }
        let pixels = (image.pixels.len() / 3).max(1) as u128;
        self.gray += gray as usize;
        self.means.iter_mut().zip(sums).for_each(|(all, sum)| *all += ((sum as u128) << 32) / pixels);
        self.squares.iter_mut().zip(squares).for_each(|(all, sum)| *all += ((sum as u128) << 32) / pixels);
        // Images in memory are stored as pixels, without a format.
        let header = if raw == image.pixels { None } else { read_header(&raw) };
        self.seen.push(Seen { hash, index: index as u32, width: image.width, height: image.height, header });
    }

    fn add(&mut self, other: Tally) {
        self.seen.extend(other.seen);
        self.broken.extend(other.broken);
        self.gray += other.gray;
        self.means.iter_mut().zip(other.means).for_each(|(all, sum)| *all += sum);
        self.squares.iter_mut().zip(other.squares).for_each(|(all, sum)| *all += sum);
    }

    fn report(mut self, dataset: &Dataset) -> CheckReport {
        let mut report = CheckReport { images: self.seen.len() + self.broken.len(), gray: self.gray, ..CheckReport::default() };
        self.broken.sort_unstable();
        report.broken = self.broken.into_iter().map(|(_, broken)| broken).collect();
        let readable = self.seen.len().max(1) as f64;
        let mean = |sum: u128| sum as f64 / 2f64.powi(32) / readable;
        report.mean = self.means.map(|sum| mean(sum) / 255.0);
        report.std = [0, 1, 2].map(|c| (mean(self.squares[c]) / 65_025.0 - report.mean[c].powi(2)).max(0.0).sqrt());
        report.widths = spread(self.seen.iter().map(|seen| seen.width).collect());
        report.heights = spread(self.seen.iter().map(|seen| seen.height).collect());
        self.seen.sort_unstable_by_key(|seen| seen.index);
        self.seen.iter().for_each(|seen| report.count(seen, dataset));
        self.seen.sort_unstable_by_key(|seen| (seen.hash, seen.index));
        let same = self.seen.chunk_by(|a, b| a.hash == b.hash).filter(|same| same.len() > 1);
        report.duplicates = same.map(|same| same.iter().map(|seen| dataset.name(seen.index as usize)).collect()).collect();
        report.duplicates.sort();
        report
    }
}

impl CheckReport {
    /// Counts an image's header, and why it is unusual.
    fn count(&mut self, seen: &Seen, dataset: &Dataset) {
        let name = dataset.name(seen.index as usize);
        let (short, long) = (seen.width.min(seen.height), seen.width.max(seen.height));
        let mut why = Vec::new();
        if let Some(ImageHeader { format, kind, has_exif_rotation, is_animated }) = seen.header {
            *self.formats.entry(format_name(format)).or_default() += 1;
            *self.kinds.entry(kind.name()).or_default() += 1;
            self.exif_rotated += has_exif_rotation as usize;
            self.animated += is_animated as usize;
            if format_by_extension(&name).is_some_and(|expected| expected != format) {
                why.push(("ending", format!("is {}, unlike its extension", format_name(format))));
            }
            if is_animated {
                why.push(("animated", "is animated; the first frame is used".to_string()));
            }
        }
        if short < MIN_SIDE {
            why.push(("small", format!("its shorter side is {short} px, under {MIN_SIDE}")));
        }
        if long > short.saturating_mul(MAX_RATIO) {
            why.push(("long", format!("is {}x{} px, one side over {MAX_RATIO} times the other", seen.width, seen.height)));
        }
        why.iter().for_each(|(how, _)| *self.unusual_counts.entry(how).or_default() += 1);
        if !why.is_empty() && self.unusual.len() < MAX_LISTED {
            self.unusual.push((name, why.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")));
        }
    }
}

/// Returns the format of a name's extension.
fn format_by_extension(name: &str) -> Option<ImageFormat> {
    ImageFormat::from_extension(std::path::Path::new(name).extension()?)
}

/// Returns the smallest, median and largest value.
fn spread(mut sides: Vec<u32>) -> [u32; 3] {
    sides.sort_unstable();
    let at = |i: usize| sides.get(i).copied().unwrap_or(0);
    [at(0), at(sides.len() / 2), at(sides.len().saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_gray_and_duplicate_images_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, width, color| {
            image::RgbImage::from_pixel(width, 4, image::Rgb(color)).save(folder.path().join(name)).unwrap();
        };
        save("a.png", 3, [255, 0, 0]);
        save("b.png", 3, [255, 0, 0]);
        save("c.png", 9, [0, 0, 0]);
        std::fs::write(folder.path().join("d.jpg"), "text").unwrap();
        let report = check(&Dataset::open_unlabelled(folder.path()).unwrap(), 2, |_| {});
        assert_eq!((report.images, report.gray, report.widths, report.heights), (4, 1, [3, 3, 9], [4, 4, 4]));
        assert_eq!(report.broken[0].0, "d.jpg");
        assert_eq!(report.duplicates, [["a.png", "b.png"]]);
        assert!((report.mean[0] - 2.0 / 3.0).abs() < 1e-9 && (report.std[0] - (2.0f64 / 9.0).sqrt()).abs() < 1e-9);
        assert_eq!(report, check(&Dataset::open_unlabelled(folder.path()).unwrap(), 1, |_| {}));
    }

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)).unwrap()
    }

    #[test]
    fn headers_are_counted_and_unusual_images_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let flat = |width: u32, height: u32| {
            let pixels = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
            crate::decode::Rgb { width, height, pixels }.to_png().unwrap()
        };
        put("a.png", &flat(40, 32));
        put("b.jpg", &flat(32, 256));
        put("c.png", &flat(32, 257));
        put("d.gif", &fixture("animated.gif"));
        put("e.jpg", &fixture("orientation_6.jpg"));
        put("f.jpeg", &fixture("cmyk.jpg"));
        put("g.png", &fixture("gray16.png"));
        put("h.png", &fixture("palette.png"));
        let report = check(&Dataset::open_unlabelled(folder.path()).unwrap(), 3, |_| {});
        assert_eq!(report.formats, BTreeMap::from([("GIF", 1), ("JPEG", 2), ("PNG", 5)]));
        assert_eq!(report.kinds, BTreeMap::from([("16-bit grey", 1), ("CMYK", 1), ("RGB", 4), ("palette", 2)]));
        assert_eq!((report.exif_rotated, report.animated, report.checksums.is_none()), (1, 1, true));
        assert_eq!(report.unusual_counts, BTreeMap::from([("animated", 1), ("ending", 1), ("long", 1), ("small", 5)]));
        let names: Vec<&str> = report.unusual.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b.jpg", "c.png", "d.gif", "e.jpg", "f.jpeg", "g.png", "h.png"]);
        assert_eq!(report.unusual[0].1, "is PNG, unlike its extension");
        assert_eq!(report.unusual[1].1, "is 32x257 px, one side over 8 times the other");
        assert_eq!(report.unusual[2].1, "is animated; the first frame is used; its shorter side is 10 px, under 32");
        assert_eq!(report, check(&Dataset::open_unlabelled(folder.path()).unwrap(), 1, |_| {}));
    }

    #[test]
    fn a_dataset_in_memory_has_no_formats_and_the_list_of_unusual_images_is_limited() {
        let images =
            crate::dataset::InMemoryImages { width: 2, height: 2, channels: 1, pixels: vec![9; 4 * (MAX_LISTED + 5)], labels: None };
        let report = check(&Dataset::from_memory("nines", images, Vec::new()), 2, |_| {});
        assert!(report.formats.is_empty() && report.kinds.is_empty());
        assert_eq!((report.unusual_counts["small"], report.unusual.len()), (MAX_LISTED + 5, MAX_LISTED));
        assert_eq!((report.duplicates.len(), report.duplicates[0].len()), (1, MAX_LISTED + 5));
        assert_eq!(size_of::<Seen>(), 24);
    }
}
