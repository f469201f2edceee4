//! Loading beside training: worker threads decode and augment whole batches ahead, in order, behind a bounded queue.

use crate::guard::guard;
use crate::order::Order;
use crate::pipeline::{Key, Pipeline};
use crate::random::{Purpose, below, keyed};
use crate::{DataError, Dataset};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A set may always have this many broken images before their share counts.
const BROKEN_ALLOWED: usize = 10;

/// Images that are tried in place of one that cannot be read.
const MOST_TRIES: usize = 1000;

/// Sizes of the loading.
#[derive(Clone, PartialEq, Debug)]
pub struct LoaderOptions {
    /// Images a batch.
    pub batch_size: usize,
    /// Names every draw.
    pub seed: u64,
    /// Threads.
    pub workers: usize,
    /// Batches ahead, over all workers.
    pub queue: usize,
    /// Side of a view in pixels.
    pub image_size: u32,
    /// Share of the set that may be broken.
    pub max_broken: f64,
}

/// A batch of views.
pub struct Batch {
    /// Which sample each row is.
    pub indices: Vec<u32>,
    /// Each [batch, 3, size, size], values in 0..1.
    pub views: Vec<Vec<f32>>,
    /// Samples that were to be in it and cannot be read.
    pub broken: Vec<u32>,
}

/// Makes the batches of a set.
pub struct Loader {
    shared: Arc<Shared>,
}

struct Shared {
    dataset: Dataset,
    pipeline: Pipeline,
    options: LoaderOptions,
    /// Samples that could not be read, with the reason, and whether that may pass; else they are not tried again.
    broken: Mutex<BTreeMap<u32, (String, bool)>>,
    /// Buffers to use again.
    used: Mutex<Vec<Vec<f32>>>,
}

impl Loader {
    /// A loader of `dataset`; nothing is read yet.
    pub fn new(dataset: Dataset, pipeline: Pipeline, options: LoaderOptions) -> Loader {
        Loader { shared: Arc::new(Shared { dataset, pipeline, options, broken: Mutex::default(), used: Mutex::default() }) }
    }

    /// Batches of an epoch: whole ones in training, all of them in evaluation.
    pub fn batches_per_epoch(&self) -> usize {
        let (n, batch) = (self.shared.dataset.len(), self.shared.options.batch_size.max(1));
        if self.shared.pipeline == Pipeline::Evaluation { n.div_ceil(batch) } else { n / batch }
    }

    /// The batches of an epoch from `first` on.
    pub fn epoch(&self, epoch: u64, first: usize) -> Epoch {
        let shared = &self.shared;
        let total = self.batches_per_epoch();
        let order = match shared.pipeline {
            Pipeline::Evaluation => Order::in_sequence(shared.dataset.len()),
            _ => shared.dataset.order(shared.options.seed, epoch),
        };
        let workers = shared.options.workers.clamp(1, total.saturating_sub(first).max(1));
        let ahead = shared.options.queue.div_ceil(workers).max(1);
        let (receivers, threads) = (0..workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(ahead);
                let (shared, order) = (shared.clone(), order.clone());
                // Worker w makes the batches w, w + workers, ...; an end of the channel ends it.
                let thread = std::thread::spawn(move || {
                    for batch in (first + worker..total).step_by(workers) {
                        if sender.send(shared.batch(&order, epoch, batch)).is_err() {
                            return;
                        }
                    }
                });
                (receiver, thread)
            })
            .unzip();
        Epoch { receivers, threads, next: 0 }
    }

    /// Takes a batch's buffers back, so that the next ones need no new memory.
    pub fn give_back(&self, batch: Batch) {
        if let Ok(mut used) = self.shared.used.lock() {
            used.extend(batch.views);
        }
    }

    /// Whether so many broken images, those of the batches used so far, are too many. Asked for each batch as it is used, since how far the
    /// workers are ahead must not decide where a run stops.
    ///
    /// # Errors
    /// Over the limit, and more than ten.
    pub fn check_broken(&self, broken: &BTreeSet<u32>) -> Result<(), DataError> {
        let (shared, total) = (&self.shared, self.shared.dataset.len());
        let limit = shared.options.max_broken;
        if broken.len() <= BROKEN_ALLOWED || broken.len() as f64 <= limit * total as f64 {
            return Ok(());
        }
        let example = shared.broken.lock().map_or(String::new(), |known| shared.example(&known));
        Err(DataError::Broken(format!(
            "{} of {total} images cannot be read, over the limit of {} %{example}; `mimco check-data` lists them; remove them or raise \
             data.max_broken",
            broken.len(),
            limit * 100.0
        )))
    }

    /// Names of the images that could not be read so far, and why.
    pub fn broken(&self) -> Vec<(String, String)> {
        let broken = self.shared.broken.lock();
        broken.map_or(Vec::new(), |b| b.iter().map(|(&i, (why, _))| (self.shared.dataset.name(i as usize), why.clone())).collect())
    }
}

impl Shared {
    fn batch(&self, order: &Order, epoch: u64, batch: usize) -> Result<Batch, DataError> {
        let size = self.options.image_size as usize;
        let view_len = 3 * size * size;
        let first = batch * self.options.batch_size;
        let places = first..order.samples.len().min(first + self.options.batch_size);
        let wanted = &order.samples[places.clone()];
        let mut views: Vec<Vec<f32>> = (0..self.pipeline.views()).map(|_| self.buffer(wanted.len() * view_len)).collect();
        let mut indices = Vec::with_capacity(wanted.len());
        let mut broken = Vec::new();
        for &index in wanted {
            let row = indices.len() * view_len..(indices.len() + 1) * view_len;
            indices.extend(self.fill(index, epoch, &mut views, row, &mut broken)?);
        }
        views.iter_mut().for_each(|v| v.truncate(indices.len() * view_len));
        order.ahead(places).for_each(|sample| self.dataset.read_ahead(sample as usize));
        Ok(Batch { indices, views, broken })
    }

    fn buffer(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.used.lock().ok().and_then(|mut used| used.pop()).unwrap_or_default();
        buffer.resize(len, 0.0);
        buffer
    }

    /// Makes a sample's views; in training those of another one in place of a broken one, drawn by the sample's own key. Gives whose they are.
    fn fill(
        &self,
        index: u32,
        epoch: u64,
        views: &mut [Vec<f32>],
        row: Range<usize>,
        broken: &mut Vec<u32>,
    ) -> Result<Option<u32>, DataError> {
        let mut rng = keyed(self.options.seed, Purpose::Replace, epoch, index as u64);
        let mut candidate = index;
        for _ in 0..MOST_TRIES {
            if self.try_fill(candidate, epoch, views, row.clone())? {
                return Ok(Some(candidate));
            }
            broken.push(candidate);
            if self.pipeline == Pipeline::Evaluation {
                return Ok(None);
            }
            candidate = below(&mut rng, self.dataset.len()) as u32;
        }
        let example = self.broken.lock().map_or(String::new(), |known| self.example(&known));
        Err(DataError::Broken(format!(
            "{MOST_TRIES} images in a row cannot be read{example}; if {} was away, the same command goes on when it is back",
            self.dataset.place()
        )))
    }

    fn try_fill(&self, index: u32, epoch: u64, views: &mut [Vec<f32>], row: Range<usize>) -> Result<bool, DataError> {
        if let Ok(broken) = self.broken.lock()
            && broken.get(&index).is_some_and(|(_, passes)| !passes)
        {
            // Asked each time: where nothing can be read, a search for another image would never end.
            return self.none_left(&broken).map_or(Ok(false), Err);
        }
        let key = Key { seed: self.options.seed, epoch, index: index as u64 };
        let out = views.iter_mut().map(|view| &mut view[row.clone()]);
        let make = || self.dataset.read(index as usize).and_then(|encoded| self.pipeline.make(&encoded, key, self.options.image_size, out));
        let what = match guard(make) {
            Some(Ok(())) => return Ok(true),
            Some(Err(DataError::Image { what, .. })) => (what, false),
            Some(Err(DataError::Unread { what, passes, .. })) => (what, passes),
            Some(Err(other)) => (other.to_string(), false),
            None => ("its views cannot be made".into(), false),
        };
        let Ok(mut broken) = self.broken.lock() else { return Ok(false) };
        broken.insert(index, what);
        self.none_left(&broken).map_or(Ok(false), Err)
    }

    /// Where nothing can be read, a search for another image would never end.
    fn none_left(&self, broken: &BTreeMap<u32, (String, bool)>) -> Option<DataError> {
        let total = self.dataset.len();
        (broken.len() == total).then(|| {
            let example = self.example(broken);
            DataError::Broken(format!("none of the {total} images of {} can be read{example}", self.dataset.place()))
        })
    }

    fn example(&self, broken: &BTreeMap<u32, (String, bool)>) -> String {
        broken.iter().next().map_or(String::new(), |(&first, (why, _))| format!(" (first {}: {why})", self.dataset.name(first as usize)))
    }
}

/// The batches of one epoch, in order. Dropping it stops the workers.
pub struct Epoch {
    receivers: Vec<Receiver<Result<Batch, DataError>>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
}

impl Iterator for Epoch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.receivers[self.next % self.receivers.len()].recv().ok();
        self.next += 1;
        batch
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::MimAugment;
    use crate::formats::Packed;

    fn set(n: usize) -> Dataset {
        let pixels = (0..n * 64).map(|i| (i * 31 % 251) as u8).collect();
        Dataset::from_packed("set", Packed { width: 8, height: 8, channels: 1, pixels, labels: None }, Vec::new())
    }

    fn options(batch_size: usize, workers: usize) -> LoaderOptions {
        LoaderOptions { batch_size, seed: 3, workers, queue: 4, image_size: 8, max_broken: 0.01 }
    }

    fn mim() -> Pipeline {
        Pipeline::Mim(MimAugment { crop_scale: (0.5, 1.0), flip: 0.5 })
    }

    fn collect(loader: &Loader, epoch: u64, first: usize) -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
        loader.epoch(epoch, first).map(|b| b.unwrap()).map(|b| (b.indices, b.views)).collect()
    }

    #[test]
    fn batches_do_not_depend_on_workers_or_on_where_one_begins() {
        let all = collect(&Loader::new(set(50), mim(), options(8, 1)), 2, 0);
        assert_eq!(all.len(), 6);
        let mut seen: Vec<u32> = all.iter().flat_map(|(indices, _)| indices.clone()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 48);
        for workers in [2, 3] {
            let loader = Loader::new(set(50), mim(), options(8, workers));
            assert!(collect(&loader, 2, 0) == all);
            assert!(collect(&loader, 2, 4) == all[4..]);
            assert!(collect(&loader, 3, 0) != all);
        }
    }

    #[test]
    fn evaluation_keeps_order_and_the_last_batch() {
        let batches = collect(&Loader::new(set(10), Pipeline::Evaluation, options(4, 2)), 0, 0);
        assert_eq!(batches.iter().map(|b| b.0.clone()).collect::<Vec<_>>(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }

    #[test]
    fn dropping_an_epoch_stops_its_workers() {
        let loader = Loader::new(set(1000), mim(), options(2, 2));
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.next().is_some());
        drop(epoch); // joins the workers; would hang if they went on
    }

    #[test]
    fn broken_images_are_replaced_counted_and_limited() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: String, whole: bool| {
            let path = folder.path().join(name);
            if whole {
                image::RgbImage::from_pixel(8, 8, image::Rgb([9, 9, 9])).save_with_format(path, image::ImageFormat::Png).unwrap();
            } else {
                std::fs::write(path, "text").unwrap();
            }
        };
        (0..40).for_each(|i| write(format!("{i:02}.png"), i % 8 != 0)); // 5 broken
        let loader = |workers| Loader::new(Dataset::heap(folder.path()).unwrap(), mim(), options(10, workers));
        let (one, two) = (loader(1), loader(2));
        let batches = collect(&one, 0, 0);
        assert!(batches == collect(&two, 0, 0));
        assert!(batches.iter().all(|(indices, _)| indices.len() == 10 && indices.iter().all(|i| i % 8 != 0)));
        assert_eq!(one.broken().len(), 5);
        assert!(one.broken()[0].0 == "00.png" && one.broken()[0].1.contains("is not a"));

        // Each batch tells those that were to be in it, whatever is known already and whoever loads it.
        let told = |loader: &Loader| loader.epoch(0, 0).map(|b| b.unwrap().broken).collect::<Vec<_>>();
        assert_eq!(told(&one), told(&two));
        let all: BTreeSet<u32> = told(&one).into_iter().flatten().collect();
        assert_eq!(all, [0, 8, 16, 24, 32].into());
        assert!(one.check_broken(&all).is_ok(), "ten always may");

        (0..12).for_each(|i| write(format!("{i:02}.png"), false)); // more than 10
        let many = loader(2);
        let all: BTreeSet<u32> = told(&many).into_iter().flatten().collect();
        let error = many.check_broken(&all).unwrap_err().to_string();
        assert!(error.starts_with("15 of 40 images") && error.contains("data.max_broken") && error.contains("00.png"), "{error}");
        (0..40).for_each(|i| write(format!("{i:02}.png"), false));
        assert!(loader(1).epoch(0, 0).any(|b| b.is_err()));
    }
}
