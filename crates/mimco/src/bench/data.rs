//! Benchmark of data loading: decoding and augmentation to normalized f32 images in memory.

use crate::Error;
use crate::models::vit::{IMAGENET_MEAN, IMAGENET_STD};
use mimco_data::Dataset;
use mimco_data::loader::{Key, ViewSpec};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Image size in px.
const SIZE: u32 = 224;

/// Returns the images per second of `threads` threads that load the dataset repeatedly for
/// `seconds`.
///
/// # Errors
/// A dataset without a readable image.
pub fn time(dataset: &Dataset, spec: &ViewSpec, threads: usize, seconds: f64) -> Result<f64, Error> {
    let [next, done, failed] = [const { AtomicUsize::new(0) }; 3];
    let started = Instant::now();
    let until = Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut views = vec![vec![0.0; 3 * (SIZE * SIZE) as usize]; spec.view_count()];
                while started.elapsed() < until {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let count = if make(dataset, spec, turn, &mut views) { &done } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) == 0 && failed.load(Ordering::Relaxed) >= dataset.len() {
                        break; // no image is readable
                    }
                }
            });
        }
    });
    match done.into_inner() {
        0 => Err(Error::Setting(format!("{}: none of its images can be read; `mimco check-data` shows why", dataset.location()))),
        done => Ok(done as f64 / started.elapsed().as_secs_f64()),
    }
}

/// Makes the views of one image. Returns false if it cannot be read.
fn make(dataset: &Dataset, spec: &ViewSpec, turn: usize, views: &mut [Vec<f32>]) -> bool {
    let Ok(encoded) = dataset.read(turn % dataset.len()) else { return false };
    let key = Key { seed: 0, epoch: 0, index: turn as u64 };
    if spec.make(&encoded, key, SIZE, views.iter_mut().map(Vec::as_mut_slice)).is_err() {
        return false;
    }
    for view in views {
        for ((plane, mean), std) in view.chunks_exact_mut((SIZE * SIZE) as usize).zip(IMAGENET_MEAN).zip(IMAGENET_STD) {
            let scale = 1.0 / std;
            plane.iter_mut().for_each(|pixel| *pixel = (*pixel - mean) * scale);
        }
        std::hint::black_box(&view);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Config, MethodSettings};
    use mimco_data::dataset::InMemoryImages;

    #[test]
    fn the_views_of_every_method_run_on_several_threads_and_a_broken_set_ends() {
        let packed = InMemoryImages { width: 20, height: 20, channels: 1, pixels: vec![90; 800], labels: None };
        let set = Dataset::from_memory("set", packed, Vec::new());
        let views = |method: MethodSettings| Config::defaults(method).views();
        for method in MethodSettings::all() {
            assert!(time(&set, &views(method), 2, 0.05).unwrap() > 0.0);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), "text").unwrap();
        std::fs::write(folder.path().join("b.jpg"), "text").unwrap();
        let broken = Dataset::open_unlabelled(folder.path()).unwrap();
        let error = time(&broken, &views(MethodSettings::named("mimco").unwrap()), 1, 5.0).unwrap_err();
        assert!(error.to_string().contains("none of its images"));
    }
}
