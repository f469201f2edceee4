//! The data path alone: decode and augmentation to normalised f32 tensors in memory.

use crate::Error;
use mimco_data::Dataset;
use mimco_data::augment::{MimAugment, MocoAugment};
use mimco_data::random::{Purpose, keyed};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which views are made of an image.
#[derive(Clone, Debug)]
pub enum Views {
    /// One, for masked image modelling.
    Mim(MimAugment),
    /// Two, MoCo v3's.
    Moco(MocoAugment),
}

const SIZE: u32 = 224;

/// Images a second over `seconds`, by `threads` threads that take the set's images in turn, over and over.
///
/// # Errors
/// Where no image can be read.
pub fn time(dataset: &Dataset, views: &Views, threads: usize, seconds: f64) -> Result<f64, Error> {
    let [next, done, failed] = [const { AtomicUsize::new(0) }; 3];
    let began = Instant::now();
    let until = Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut view = vec![0.0; 3 * (SIZE * SIZE) as usize];
                while began.elapsed() < until {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let count = if make(dataset, views, turn, &mut view) { &done } else { &failed };
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
fn make(dataset: &Dataset, views: &Views, turn: usize, view: &mut [f32]) -> bool {
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
    let Ok(image) = dataset.load(turn % dataset.len()) else { return false };
    let count = if let Views::Moco(_) = views { 2 } else { 1 };
    for which in 0..count {
        let mut rng = keyed(0, Purpose::View(which as u8), 0, turn as u64);
        match views {
            Views::Mim(augment) => augment.view(&image, SIZE, &mut rng, view),
            Views::Moco(augment) => augment.view(&image, which, SIZE, &mut rng, view),
        }
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
        let set = Dataset::from_grey("set", packed, Vec::new());
        let config = Config::defaults(MethodName::MocoV3);
        for views in [Views::Mim(config.mim_augment()), Views::Moco(config.moco_augment(&MocoV3::default()))] {
            assert!(time(&set, &views, 2, 0.05).unwrap() > 0.0);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), "text").unwrap();
        std::fs::write(folder.path().join("b.jpg"), "text").unwrap();
        let broken = Dataset::heap(folder.path()).unwrap();
        let error = time(&broken, &Views::Mim(config.mim_augment()), 1, 5.0).unwrap_err();
        assert!(error.to_string().contains("none of its images"));
    }
}
