//! Batched loading in parallel with training. Worker threads decode and augment whole batches
//! ahead, in order, into a bounded queue.

pub(crate) mod order;
mod pipeline;

pub use pipeline::{Key, ViewSpec};

use crate::dataset::Dataset;
use crate::decode::guard::guard;
use crate::error::DataError;
use crate::random::{Purpose, below, keyed};
use order::Order;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Number of broken images that every dataset may have, whatever its size.
const BROKEN_ALLOWED: usize = 10;

/// Number of images tried as the replacement of a broken one.
const MAX_TRIES: usize = 1000;

/// Settings of a loader.
#[derive(Clone, PartialEq, Debug)]
pub struct LoaderOptions {
    /// Images per batch.
    pub batch_size: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Number of worker threads.
    pub workers: usize,
    /// Number of batches loaded ahead, over all workers.
    pub queue: usize,
    /// Width and height of a view in pixels.
    pub image_size: u32,
    /// Fraction of the dataset that may be broken.
    pub max_broken: f64,
}

/// A batch of views.
pub struct Batch {
    /// The sample of each row.
    pub indices: Vec<u32>,
    /// The views, each [batch, 3, size, size] with values from 0 to 1.
    pub views: Vec<Vec<f32>>,
    /// The class of each row; `None` for a dataset without labels.
    pub targets: Option<Vec<u32>>,
    /// Samples of this batch that cannot be read.
    pub broken: Vec<u32>,
}

/// Loads the batches of a dataset.
///
/// ```
/// use mimco_data::dataset::InMemoryImages;
/// use mimco_data::loader::{Loader, LoaderOptions, ViewSpec};
/// use mimco_data::{DataError, Dataset};
///
/// # fn main() -> Result<(), DataError> {
/// let labels = Some(vec![0, 1, 1, 0, 1]);
/// let pixels = vec![51; 5 * 8 * 8];
/// let images = InMemoryImages { width: 8, height: 8, channels: 1, pixels, labels };
/// let dataset = Dataset::from_memory("digits", images, vec!["zero".into(), "one".into()]);
/// let options = LoaderOptions {
///     batch_size: 2,
///     seed: 0,
///     workers: 2,
///     queue: 4,
///     image_size: 8,
///     max_broken: 0.0,
/// };
/// let loader = Loader::new(dataset, ViewSpec::Evaluation, options);
/// for batch in loader.epoch(0, 0) {
///     let batch = batch?;
///     assert_eq!(batch.views[0].len(), batch.indices.len() * 3 * 8 * 8);
///     assert_eq!(batch.targets.as_ref().map(Vec::len), Some(batch.indices.len()));
///     loader.recycle(batch);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Loader {
    shared: Arc<Shared>,
}

/// State shared by the worker threads.
struct Shared {
    dataset: Dataset,
    views: ViewSpec,
    options: LoaderOptions,
    /// Samples that could not be read, with the reason, and whether that is transient. The others
    /// are not tried again.
    broken: Mutex<BTreeMap<u32, (String, bool)>>,
    /// Buffers for reuse.
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Loader {
    /// Returns a loader of `dataset`; nothing is read yet.
    pub fn new(dataset: Dataset, views: ViewSpec, options: LoaderOptions) -> Loader {
        Loader { shared: Arc::new(Shared { dataset, views, options, broken: Mutex::default(), buffers: Mutex::default() }) }
    }

    /// Returns the number of batches per epoch: full ones in training, all in evaluation.
    pub fn batches_per_epoch(&self) -> usize {
        let (n, batch) = (self.shared.dataset.len(), self.shared.options.batch_size.max(1));
        if self.shared.views == ViewSpec::Evaluation { n.div_ceil(batch) } else { n / batch }
    }

    /// Starts loading the batches of an epoch from batch `first` on.
    pub fn epoch(&self, epoch: u64, first: usize) -> Epoch {
        let shared = &self.shared;
        let total = self.batches_per_epoch();
        let order = match shared.views {
            ViewSpec::Evaluation => Order::in_sequence(shared.dataset.len()),
            ViewSpec::Random(_) => shared.dataset.order(shared.options.seed, epoch),
        };
        let workers = shared.options.workers.clamp(1, total.saturating_sub(first).max(1));
        let ahead = shared.options.queue.div_ceil(workers).max(1);
        let (receivers, threads) = (0..workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(ahead);
                let (shared, order) = (shared.clone(), order.clone());
                // Worker w makes the batches w, w + workers, ... until its channel is closed.
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

    /// Reuses a batch's buffers for later batches.
    pub fn recycle(&self, batch: Batch) {
        if let Ok(mut buffers) = self.shared.buffers.lock() {
            buffers.extend(batch.views);
        }
    }

    /// Checks whether too many images are broken. `broken` are those of the batches used so far:
    /// the check runs for each batch as it is used, so that a run stops at the same batch however
    /// far the workers are ahead.
    ///
    /// # Errors
    /// Fails if more images are broken than `max_broken` allows, and more than ten.
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

    /// Returns the names of the images that could not be read so far, with the reasons.
    pub fn broken(&self) -> Vec<(String, String)> {
        let broken = self.shared.broken.lock();
        broken.map_or(Vec::new(), |b| b.iter().map(|(&i, (why, _))| (self.shared.dataset.name(i as usize), why.clone())).collect())
    }
}

impl Shared {
    /// Makes batch number `batch` of an epoch.
    fn batch(&self, order: &Order, epoch: u64, batch: usize) -> Result<Batch, DataError> {
        let size = self.options.image_size as usize;
        let view_len = 3 * size * size;
        let first = batch * self.options.batch_size;
        let positions = first..order.samples.len().min(first + self.options.batch_size);
        let wanted = &order.samples[positions.clone()];
        let mut views: Vec<Vec<f32>> = (0..self.views.view_count()).map(|_| self.buffer(wanted.len() * view_len)).collect();
        let mut indices = Vec::with_capacity(wanted.len());
        let mut broken = Vec::new();
        for &index in wanted {
            let row = indices.len() * view_len..(indices.len() + 1) * view_len;
            indices.extend(self.fill(index, epoch, &mut views, row, &mut broken)?);
        }
        views.iter_mut().for_each(|v| v.truncate(indices.len() * view_len));
        order.ahead(positions).for_each(|sample| self.dataset.read_ahead(sample as usize));
        let label = |&index: &u32| self.dataset.label(index as usize);
        let is_labelled = wanted.first().and_then(label).is_some();
        let targets = if is_labelled { indices.iter().map(label).collect() } else { None };
        Ok(Batch { indices, views, targets, broken })
    }

    fn buffer(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.buffers.lock().ok().and_then(|mut buffers| buffers.pop()).unwrap_or_default();
        buffer.resize(len, 0.0);
        buffer
    }

    /// Makes a sample's views and returns the sample. In training, a broken sample is replaced by
    /// one drawn with the broken one's key; in evaluation it is left out.
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
        for _ in 0..MAX_TRIES {
            if self.try_fill(candidate, epoch, views, row.clone())? {
                return Ok(Some(candidate));
            }
            broken.push(candidate);
            if self.views == ViewSpec::Evaluation {
                return Ok(None);
            }
            candidate = below(&mut rng, self.dataset.len()) as u32;
        }
        let example = self.broken.lock().map_or(String::new(), |known| self.example(&known));
        Err(DataError::Broken(format!(
            "{MAX_TRIES} images in a row cannot be read{example}; if {} was unavailable, run the same command again to continue",
            self.dataset.location()
        )))
    }

    /// Makes a sample's views; returns whether the sample can be read.
    fn try_fill(&self, index: u32, epoch: u64, views: &mut [Vec<f32>], row: Range<usize>) -> Result<bool, DataError> {
        if let Ok(broken) = self.broken.lock()
            && broken.get(&index).is_some_and(|(_, is_transient)| !is_transient)
        {
            // Checked each time: if nothing can be read, the search for a replacement would never
            // end.
            return self.none_left(&broken).map_or(Ok(false), Err);
        }
        let key = Key { seed: self.options.seed, epoch, index: index as u64 };
        let out = views.iter_mut().map(|view| &mut view[row.clone()]);
        let make = || self.dataset.read(index as usize).and_then(|encoded| self.views.make(&encoded, key, self.options.image_size, out));
        let what = match guard(make) {
            Some(Ok(())) => return Ok(true),
            Some(Err(DataError::Image { what, .. })) => (what, false),
            Some(Err(DataError::Unread { what, is_transient, .. })) => (what, is_transient),
            Some(Err(other)) => (other.to_string(), false),
            None => ("its views cannot be computed".into(), false),
        };
        let Ok(mut broken) = self.broken.lock() else { return Ok(false) };
        broken.insert(index, what);
        self.none_left(&broken).map_or(Ok(false), Err)
    }

    /// Returns an error if all images are broken.
    fn none_left(&self, broken: &BTreeMap<u32, (String, bool)>) -> Option<DataError> {
        let total = self.dataset.len();
        (broken.len() == total).then(|| {
            let example = self.example(broken);
            DataError::Broken(format!("none of the {total} images of {} can be read{example}", self.dataset.location()))
        })
    }

    /// Describes the first broken image, for errors.
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
    use crate::augment::{Filter, RandomOperation, RandomView};
    use crate::dataset::InMemoryImages;

    fn set(n: usize) -> Dataset {
        let pixels = (0..n * 64).map(|i| (i * 31 % 251) as u8).collect();
        Dataset::from_memory("set", InMemoryImages { width: 8, height: 8, channels: 1, pixels, labels: None }, Vec::new())
    }

    fn options(batch_size: usize, workers: usize) -> LoaderOptions {
        LoaderOptions { batch_size, seed: 3, workers, queue: 4, image_size: 8, max_broken: 0.01 }
    }

    fn random_views() -> ViewSpec {
        let operations = vec![RandomOperation::Flip { probability: 0.5 }];
        ViewSpec::Random(vec![RandomView { crop_scale: (0.5, 1.0), filter: Filter::Bicubic, operations }])
    }

    fn collect(loader: &Loader, epoch: u64, first: usize) -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
        loader.epoch(epoch, first).map(|b| b.unwrap()).map(|b| (b.indices, b.views)).collect()
    }

    #[test]
    fn batches_depend_neither_on_the_workers_nor_on_the_first_batch() {
        let all = collect(&Loader::new(set(50), random_views(), options(8, 1)), 2, 0);
        assert_eq!(all.len(), 6);
        let mut seen: Vec<u32> = all.iter().flat_map(|(indices, _)| indices.clone()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 48);
        for workers in [2, 3] {
            let loader = Loader::new(set(50), random_views(), options(8, workers));
            assert!(collect(&loader, 2, 0) == all);
            assert!(collect(&loader, 2, 4) == all[4..]);
            assert!(collect(&loader, 3, 0) != all);
        }
    }

    #[test]
    fn evaluation_keeps_order_and_the_last_batch() {
        let batches = collect(&Loader::new(set(10), ViewSpec::Evaluation, options(4, 2)), 0, 0);
        assert_eq!(batches.iter().map(|b| b.0.clone()).collect::<Vec<_>>(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }

    #[test]
    fn dropping_an_epoch_stops_its_workers() {
        let loader = Loader::new(set(1000), random_views(), options(2, 2));
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.next().is_some());
        drop(epoch); // joins the workers; would hang if they continued
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
        let loader = |workers| Loader::new(Dataset::open_unlabelled(folder.path()).unwrap(), random_views(), options(10, workers));
        let (one, two) = (loader(1), loader(2));
        let batches = collect(&one, 0, 0);
        assert!(batches == collect(&two, 0, 0));
        assert!(batches.iter().all(|(indices, _)| indices.len() == 10 && indices.iter().all(|i| i % 8 != 0)));
        assert_eq!(one.broken().len(), 5);
        assert!(one.broken()[0].0 == "00.png" && one.broken()[0].1.contains("is not a"));

        // Each batch lists its broken images, whatever is known already and whichever worker loads
        // it.
        let broken = |loader: &Loader| loader.epoch(0, 0).map(|b| b.unwrap().broken).collect::<Vec<_>>();
        assert_eq!(broken(&one), broken(&two));
        let all: BTreeSet<u32> = broken(&one).into_iter().flatten().collect();
        assert_eq!(all, [0, 8, 16, 24, 32].into());
        assert!(one.check_broken(&all).is_ok(), "ten always may");

        (0..12).for_each(|i| write(format!("{i:02}.png"), false)); // more than 10
        let many = loader(2);
        let all: BTreeSet<u32> = broken(&many).into_iter().flatten().collect();
        let error = many.check_broken(&all).unwrap_err().to_string();
        assert!(error.starts_with("15 of 40 images") && error.contains("data.max_broken") && error.contains("00.png"), "{error}");
        (0..40).for_each(|i| write(format!("{i:02}.png"), false));
        assert!(loader(1).epoch(0, 0).any(|b| b.is_err()));
    }

    #[test]
    fn targets_are_the_classes_of_the_rows() {
        let labelled = |labels: Option<Vec<u32>>, classes: &[&str]| {
            let pixels = (0..7 * 64).map(|i| (i * 31 % 251) as u8).collect();
            let images = InMemoryImages { width: 8, height: 8, channels: 1, pixels, labels };
            Dataset::from_memory("set", images, classes.iter().map(|class| class.to_string()).collect())
        };
        let labels = vec![2, 0, 1, 1, 0, 2, 1];
        let classes = ["a", "b", "c"];
        for views in [random_views(), ViewSpec::Evaluation] {
            // The labels of a subset with other class numbers, as of a validation set.
            let order = ["c", "a", "b"].map(String::from);
            let dataset = labelled(Some(labels.clone()), &classes).with_classes(&order).unwrap().subset(&[6, 5, 4, 3, 2, 1, 0]);
            let expected = |index: u32| [1, 2, 0][labels[6 - index as usize] as usize];
            for batch in Loader::new(dataset, views, options(3, 2)).epoch(0, 0) {
                let batch = batch.unwrap();
                assert_eq!(batch.targets, Some(batch.indices.iter().map(|&index| expected(index)).collect()));
            }
        }
        let unlabelled = Loader::new(labelled(None, &[]), random_views(), options(3, 1));
        assert!(unlabelled.epoch(0, 0).all(|batch| batch.unwrap().targets.is_none()));
    }
}
