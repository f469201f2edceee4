//! A look at every image of a set before a training: what is broken, odd, or there twice.

use crate::source::Fnv;
use crate::stored::{Kind, Stored, format_name, stored};
use crate::sums::{self, Checksums};
use crate::{DataError, Dataset};
use image::ImageFormat;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Odd images that a report lists; it counts all.
pub const LISTED: usize = 1000;

/// A shorter side of fewer pixels is odd.
const SMALL: u32 = 32;

/// A longer side of more than so many times the shorter one is odd.
const LONG: u32 = 8;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// Images looked at.
    pub images: usize,
    /// Images that cannot be read, and why.
    pub broken: Vec<(String, String)>,
    /// Smallest, median and largest width.
    pub widths: [u32; 3],
    /// Smallest, median and largest height.
    pub heights: [u32; 3],
    /// Images without colour.
    pub grey: usize,
    /// Groups of files with the same bytes.
    pub duplicates: Vec<Vec<String>>,
    /// Mean of each channel over all pixels of all images, each image counting once, values in 0..1.
    pub mean: [f64; 3],
    /// Deviation likewise.
    pub std: [f64; 3],
    /// Images by what their files are, whatever their names: `JPEG`, `PNG` and so on. A set in memory has none.
    pub formats: BTreeMap<&'static str, usize>,
    /// Images by what a stored pixel is: `grey`, `RGB`, `RGBA`, `palette`, `CMYK`, `16-bit grey` and so on. A set in memory has none.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Images that their EXIF data say to turn or mirror, which is done when they are read.
    pub turned: usize,
    /// Images with more than one picture in time, of which the first is used.
    pub animated: usize,
    /// Images that are odd, by how: `ending` (content is not what the ending says), `small` (shorter side under 32 px), `long` (longer side
    /// over 8 times the shorter), `animated`. An image may be odd in more than one way.
    pub oddities: BTreeMap<&'static str, usize>,
    /// Odd images and why, the first [`LISTED`] in the set's order.
    pub odd: Vec<(String, String)>,
    /// Shards and their checksums, where `SHA256SUMS` lies beside them.
    pub checksums: Option<Checksums>,
}

/// What is kept of a readable image: few bytes, as there may be millions.
struct Seen {
    /// Of its bytes.
    hash: u64,
    index: u32,
    width: u32,
    height: u32,
    /// None of a set in memory.
    stored: Option<Stored>,
}

/// What a thread has found. Sums are of whole numbers, so that they are the same in whatever order images come.
#[derive(Default)]
struct Tally {
    seen: Vec<Seen>,
    broken: Vec<(usize, (String, String))>,
    grey: usize,
    /// Of each image's mean of each channel, values in 0..255 as multiples of 2^-32.
    means: [u128; 3],
    /// Of each image's mean square likewise.
    squares: [u128; 3],
}

/// Decodes every image on `threads` threads; `progress` hears how many are done. Then reads shards again where their checksums are there. The
/// report does not depend on the threads.
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
                    tally.look(dataset, index);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
                if let Ok(mut all) = all.lock() {
                    all.add(tally);
                }
            });
        }
    });
    let report = all.into_inner().unwrap_or_default().report(dataset);
    CheckReport { checksums: sums::verify(dataset, threads), ..report }
}

impl Tally {
    fn look(&mut self, dataset: &Dataset, index: usize) {
        let read = dataset.raw(index).and_then(|raw| Ok((dataset.decode_raw(index, &raw)?, raw)));
        let (image, raw) = match read {
            Ok(read) => read,
            Err(DataError::Image { name, what } | DataError::Unread { name, what, .. }) => return self.broken.push((index, (name, what))),
            Err(other) => return self.broken.push((index, (dataset.name(index), other.to_string()))),
        };
        let mut hash = Fnv::default();
        hash.add(&raw);
        let (mut sums, mut squares) = ([0u64; 3], [0u64; 3]);
        let mut grey = true;
        for pixel in image.pixels.chunks_exact(3) {
            for c in 0..3 {
                sums[c] += pixel[c] as u64;
                squares[c] += (pixel[c] as u64).pow(2);
            }
            grey &= pixel[0] == pixel[1] && pixel[1] == pixel[2];
        }
        let pixels = (image.pixels.len() / 3).max(1) as u128;
        self.grey += grey as usize;
        self.means.iter_mut().zip(sums).for_each(|(all, sum)| *all += ((sum as u128) << 32) / pixels);
        self.squares.iter_mut().zip(squares).for_each(|(all, sum)| *all += ((sum as u128) << 32) / pixels);
        // What is in memory is stored as the pixels themselves, in no format.
        let stored = if raw == image.pixels { None } else { stored(&raw) };
        self.seen.push(Seen { hash: hash.0, index: index as u32, width: image.width, height: image.height, stored });
    }

    fn add(&mut self, other: Tally) {
        self.seen.extend(other.seen);
        self.broken.extend(other.broken);
        self.grey += other.grey;
        self.means.iter_mut().zip(other.means).for_each(|(all, sum)| *all += sum);
        self.squares.iter_mut().zip(other.squares).for_each(|(all, sum)| *all += sum);
    }

    fn report(mut self, dataset: &Dataset) -> CheckReport {
        let mut report = CheckReport { images: self.seen.len() + self.broken.len(), grey: self.grey, ..CheckReport::default() };
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
    /// How an image is stored, and what is odd about it.
    fn count(&mut self, seen: &Seen, dataset: &Dataset) {
        let name = dataset.name(seen.index as usize);
        let (short, long) = (seen.width.min(seen.height), seen.width.max(seen.height));
        let mut why = Vec::new();
        if let Some(Stored { format, kind, turned, moving }) = seen.stored {
            *self.formats.entry(format_name(format)).or_default() += 1;
            *self.kinds.entry(Kind::name(kind)).or_default() += 1;
            self.turned += turned as usize;
            self.animated += moving as usize;
            if ending(&name).is_some_and(|ending| ending != format) {
                why.push(("ending", format!("is {}, not what its ending says", format_name(format))));
            }
            if moving {
                why.push(("animated", "has more than one picture, of which the first is used".to_string()));
            }
        }
        if short < SMALL {
            why.push(("small", format!("its shorter side is {short} px, under {SMALL}")));
        }
        if long > short.saturating_mul(LONG) {
            why.push(("long", format!("is {}x{} px, one side over {LONG} times the other", seen.width, seen.height)));
        }
        why.iter().for_each(|(how, _)| *self.oddities.entry(how).or_default() += 1);
        if !why.is_empty() && self.odd.len() < LISTED {
            self.odd.push((name, why.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")));
        }
    }
}

/// The format that a name's ending says.
fn ending(name: &str) -> Option<ImageFormat> {
    ImageFormat::from_extension(std::path::Path::new(name).extension()?)
}

/// Smallest, median and largest.
fn spread(mut sides: Vec<u32>) -> [u32; 3] {
    sides.sort_unstable();
    let at = |i: usize| sides.get(i).copied().unwrap_or(0);
    [at(0), at(sides.len() / 2), at(sides.len().saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broken_the_grey_and_the_double_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, width, colour| {
            image::RgbImage::from_pixel(width, 4, image::Rgb(colour)).save(folder.path().join(name)).unwrap();
        };
        save("a.png", 3, [255, 0, 0]);
        save("b.png", 3, [255, 0, 0]);
        save("c.png", 9, [0, 0, 0]);
        std::fs::write(folder.path().join("d.jpg"), "text").unwrap();
        let report = check(&Dataset::heap(folder.path()).unwrap(), 2, |_| {});
        assert_eq!((report.images, report.grey, report.widths, report.heights), (4, 1, [3, 3, 9], [4, 4, 4]));
        assert_eq!(report.broken[0].0, "d.jpg");
        assert_eq!(report.duplicates, [["a.png", "b.png"]]);
        assert!((report.mean[0] - 2.0 / 3.0).abs() < 1e-9 && (report.std[0] - (2.0f64 / 9.0).sqrt()).abs() < 1e-9);
        assert_eq!(report, check(&Dataset::heap(folder.path()).unwrap(), 1, |_| {}));
    }

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)).unwrap()
    }

    #[test]
    fn how_images_are_stored_is_counted_and_the_odd_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let flat = |width: u32, height: u32| {
            let pixels = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
            crate::Rgb { width, height, pixels }.to_png().unwrap()
        };
        put("a.png", &flat(40, 32));
        put("b.jpg", &flat(32, 256));
        put("c.png", &flat(32, 257));
        put("d.gif", &fixture("moving.gif"));
        put("e.jpg", &fixture("orientation_6.jpg"));
        put("f.jpeg", &fixture("cmyk.jpg"));
        put("g.png", &fixture("grey16.png"));
        put("h.png", &fixture("palette.png"));
        let report = check(&Dataset::heap(folder.path()).unwrap(), 3, |_| {});
        assert_eq!(report.formats, BTreeMap::from([("GIF", 1), ("JPEG", 2), ("PNG", 5)]));
        assert_eq!(report.kinds, BTreeMap::from([("16-bit grey", 1), ("CMYK", 1), ("RGB", 4), ("palette", 2)]));
        assert_eq!((report.turned, report.animated, report.checksums.is_none()), (1, 1, true));
        assert_eq!(report.oddities, BTreeMap::from([("animated", 1), ("ending", 1), ("long", 1), ("small", 5)]));
        let names: Vec<&str> = report.odd.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b.jpg", "c.png", "d.gif", "e.jpg", "f.jpeg", "g.png", "h.png"]);
        assert_eq!(report.odd[0].1, "is PNG, not what its ending says");
        assert_eq!(report.odd[1].1, "is 32x257 px, one side over 8 times the other");
        assert_eq!(report.odd[2].1, "has more than one picture, of which the first is used; its shorter side is 10 px, under 32");
        assert_eq!(report, check(&Dataset::heap(folder.path()).unwrap(), 1, |_| {}));
    }

    #[test]
    fn a_set_in_memory_has_no_formats_and_not_every_odd_image_is_listed() {
        let packed = crate::formats::Packed { width: 2, height: 2, channels: 1, pixels: vec![9; 4 * (LISTED + 5)], labels: None };
        let report = check(&Dataset::from_packed("nines", packed, Vec::new()), 2, |_| {});
        assert!(report.formats.is_empty() && report.kinds.is_empty());
        assert_eq!((report.oddities["small"], report.odd.len()), (LISTED + 5, LISTED));
        assert_eq!((report.duplicates.len(), report.duplicates[0].len()), (1, LISTED + 5));
        assert_eq!(size_of::<Seen>(), 24);
    }
}
