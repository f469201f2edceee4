//! A look at every image of a set before a training: what is broken, odd, or there twice.

use crate::source::Fnv;
use crate::{DataError, Dataset};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
}

struct Seen {
    size: (u32, u32),
    grey: bool,
    mean: [f64; 3],
    squares: [f64; 3],
}

/// A hash of an image's bytes, and what it is.
type Found = (u64, Result<Seen, DataError>);

/// Decodes every image on `threads` threads; `progress` hears how many are done. The report does not depend on the threads.
pub fn check(dataset: &Dataset, threads: usize, progress: impl Fn(usize) + Sync) -> CheckReport {
    let n = dataset.len();
    let found: Mutex<BTreeMap<usize, Found>> = Mutex::default();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= n {
                        return;
                    }
                    let seen = look(dataset, index);
                    if let Ok(mut found) = found.lock() {
                        found.insert(index, seen);
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    summarise(dataset, found.into_inner().unwrap_or_default())
}

fn look(dataset: &Dataset, index: usize) -> Found {
    let raw = match dataset.raw(index) {
        Ok(raw) => raw,
        Err(error) => return (0, Err(error)),
    };
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.add(&raw);
    let seen = dataset.decode_raw(index, &raw).map(|image| {
        let (mut sums, mut squares) = ([0u64; 3], [0u64; 3]);
        let mut grey = true;
        for pixel in image.pixels.chunks_exact(3) {
            for c in 0..3 {
                sums[c] += pixel[c] as u64;
                squares[c] += (pixel[c] as u64).pow(2);
            }
            grey &= pixel[0] == pixel[1] && pixel[1] == pixel[2];
        }
        let pixels = (image.pixels.len() / 3).max(1) as f64;
        Seen {
            size: (image.width, image.height),
            grey,
            mean: sums.map(|s| s as f64 / pixels / 255.0),
            squares: squares.map(|s| s as f64 / pixels / 65_025.0),
        }
    });
    (hash.0, seen)
}

fn summarise(dataset: &Dataset, found: BTreeMap<usize, Found>) -> CheckReport {
    let mut report = CheckReport { images: found.len(), ..CheckReport::default() };
    let mut same: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let (mut widths, mut heights) = (Vec::new(), Vec::new());
    let mut squares = [0.0; 3];
    for (index, (hash, seen)) in found {
        match seen {
            Err(DataError::Image { name, what }) => report.broken.push((name, what)),
            Err(other) => report.broken.push((dataset.name(index), other.to_string())),
            Ok(seen) => {
                same.entry(hash).or_default().push(dataset.name(index));
                widths.push(seen.size.0);
                heights.push(seen.size.1);
                report.grey += seen.grey as usize;
                report.mean.iter_mut().zip(seen.mean).for_each(|(sum, mean)| *sum += mean);
                squares.iter_mut().zip(seen.squares).for_each(|(sum, square)| *sum += square);
            }
        }
    }
    let readable = widths.len().max(1) as f64;
    report.mean = report.mean.map(|sum| sum / readable);
    report.std = [0, 1, 2].map(|c| (squares[c] / readable - report.mean[c].powi(2)).max(0.0).sqrt());
    let spread = |mut sides: Vec<u32>| {
        sides.sort_unstable();
        let at = |i: usize| sides.get(i).copied().unwrap_or(0);
        [at(0), at(sides.len() / 2), at(sides.len().saturating_sub(1))]
    };
    (report.widths, report.heights) = (spread(widths), spread(heights));
    report.duplicates = same.into_values().filter(|names| names.len() > 1).collect();
    report.duplicates.sort();
    report
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
}
