//! The data path alone: decode and augmentation to normalised f32 tensors in memory.

use crate::Error;
use mimco_data::Dataset;
use mimco_data::pipeline::{Key, Pipeline};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SIZE: u32 = 224;

/// Images a second over `seconds`, by `threads` threads that take the set's images in turn, over and over.
///
/// # Errors
/// Where no image can be read.
pub fn time(dataset: &Dataset, pipeline: &Pipeline, threads: usize, seconds: f64) -> Result<f64, Error> {
    let [next, done, failed] = [const { AtomicUsize::new(0) }; 3];
    let began = Instant::now();
    let until = Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut views = vec![vec![0.0; 3 * (SIZE * SIZE) as usize]; pipeline.views()];
                while began.elapsed() < until {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let count = if make(dataset, pipeline, turn, &mut views) { &done } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) == 0 && failed.load(Ordering::Relaxed) >= dataset.len() {
                        break; // nothing in it can be read
                    }
                }
            });
        }
    });
    match done.into_inner() {
        0 => Err(Error::Setting(format!("{}: none of its images can be read; `mimco check-data` says why", dataset.place()))),
        done => Ok(done as f64 / began.elapsed().as_secs_f64()),
    }
}

/// Makes the views of one image; false where it cannot be read.
fn make(dataset: &Dataset, pipeline: &Pipeline, turn: usize, views: &mut [Vec<f32>]) -> bool {
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
    let Ok(encoded) = dataset.read(turn % dataset.len()) else { return false };
    let key = Key { seed: 0, epoch: 0, index: turn as u64 };
    if pipeline.make(&encoded, key, SIZE, views.iter_mut().map(Vec::as_mut_slice)).is_err() {
        return false;
    }
    for view in views {
        for ((plane, mean), deviation) in view.chunks_exact_mut((SIZE * SIZE) as usize).zip(MEAN).zip(DEVIATION) {
            let scale = 1.0 / deviation;
            plane.iter_mut().for_each(|pixel| *pixel = (*pixel - mean) * scale);
        }
        std::hint::black_box(&view);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Config, MethodName, MocoV3};
    use mimco_data::formats::Packed;

    #[test]
    fn both_pipelines_run_on_several_threads_and_a_broken_set_ends() {
        let packed = Packed { width: 20, height: 20, channels: 1, pixels: vec![90; 800], labels: None };
        let set = Dataset::from_packed("set", packed, Vec::new());
        let config = Config::defaults(MethodName::MocoV3);
        for views in [Pipeline::Mim(config.mim_augment()), Pipeline::MocoV3(config.moco_augment(&MocoV3::default()))] {
            assert!(time(&set, &views, 2, 0.05).unwrap() > 0.0);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), "text").unwrap();
        std::fs::write(folder.path().join("b.jpg"), "text").unwrap();
        let broken = Dataset::heap(folder.path()).unwrap();
        let error = time(&broken, &Pipeline::Mim(config.mim_augment()), 1, 5.0).unwrap_err();
        assert!(error.to_string().contains("none of its images"));
    }
}
