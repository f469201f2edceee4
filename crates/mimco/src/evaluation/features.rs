//! Features of images: a backbone's output for the evaluation view of each image.

use crate::Error;
use crate::models::backbone::FeatureKind;
use crate::models::tokens::TokenRows;
use crate::models::vit::{ForwardOptions, Vit};
use mimco_data::loader::ViewSpec;
use mimco_data::loader::{Loader, LoaderOptions};
use mimco_data::{DataError, Dataset};
use mimco_engine::cpu::threads::threads;
use mimco_engine::{Parameters, Tape, Tensor};

/// Tokens per forward pass: enough for all cores, few enough for the memory.
const TOKENS: usize = 2048;
/// Images per batch of raw pixels.
const PIXEL_BATCH: usize = 64;

/// Features of the readable images of a dataset, one per row.
#[derive(Clone, PartialEq, Debug)]
pub struct Features {
    rows: usize,
    width: usize,
    data: Vec<f32>,
    indices: Vec<u32>,
    labels: Option<Vec<u32>>,
    broken: Vec<(String, String)>,
}

impl Features {
    /// Wraps unlabelled features [rows, width] of the samples 0, 1, ...
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(width: usize, data: Vec<f32>) -> Features {
        let rows = data.len() / width.max(1);
        assert_eq!(data.len(), rows * width, "features are whole rows");
        Features { rows, width, data, indices: (0..rows as u32).collect(), labels: None, broken: Vec::new() }
    }

    /// Returns the number of features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of elements of a feature.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns all features [rows, width].
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Returns the feature of row `row`, `[width]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.width..][..self.width]
    }

    /// Returns the sample of each row, `[rows]`.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Returns the unreadable images, which have no feature: their names and the reasons.
    pub fn broken(&self) -> &[(String, String)] {
        &self.broken
    }

    /// Returns the first `rows` features, or all if there are fewer.
    pub fn head(&self, rows: usize) -> Features {
        let rows = rows.min(self.rows);
        Features {
            rows,
            width: self.width,
            data: self.data[..rows * self.width].to_vec(),
            indices: self.indices[..rows].to_vec(),
            labels: self.labels.as_ref().map(|labels| labels[..rows].to_vec()),
            broken: self.broken.clone(),
        }
    }
}

/// Computes the features of a dataset under a backbone: [readable images, width].
///
/// The feature of an image has the same bits in every dataset and at every position.
///
/// # Errors
/// A dataset without a readable image. Single unreadable images are left out, counted and logged.
pub fn extract(vit: &Vit, parameters: &Parameters, dataset: &Dataset, kind: FeatureKind) -> Result<Features, Error> {
    let (size, width) = (vit.config.image, vit.config.width);
    let group = (TOKENS / vit.config.tokens()).clamp(1, 64);
    let mut data = Vec::with_capacity(dataset.len() * width);
    let read = each_batch(dataset, size as u32, group, |views| {
        let rows = views.len() / (3 * size * size).max(1);
        let images = Tensor::from_slice([rows, 3, size, size], views);
        let mut tape = Tape::inference(parameters);
        let rows = match kind {
            FeatureKind::Class => TokenRows::Class,
            FeatureKind::Mean => TokenRows::All,
        };
        let tokens = vit.forward(&mut tape, &images, &ForwardOptions { rows, ..ForwardOptions::default() });
        let features = match kind {
            FeatureKind::Class => tokens.class(&mut tape),
            FeatureKind::Mean => tokens.mean(&mut tape),
        }; // [images, width]
        data.extend_from_slice(&features.value.to_host());
    })?;
    Ok(read.features(width, data))
}

/// Returns the pixels of the evaluation view as features, a baseline: [readable images, 3 · size²] with
/// values in 0..1, as planes of red, green and blue; [readable images, size²] if all images are gray.
///
/// # Errors
/// Those of [`extract`].
pub fn pixels(dataset: &Dataset, size: u32) -> Result<Features, Error> {
    let plane = size as usize * size as usize;
    let mut data = Vec::with_capacity(dataset.len() * plane);
    let mut gray = true;
    let read = each_batch(dataset, size, PIXEL_BATCH, |views| {
        for image in views.chunks_exact(3 * plane) {
            if gray && (image[..plane] != image[plane..2 * plane] || image[..plane] != image[2 * plane..]) {
                gray = false;
                // All images before were gray: their three planes are equal.
                data = data.chunks_exact(plane).flat_map(|first| [first; 3].concat()).collect();
            }
            data.extend_from_slice(if gray { &image[..plane] } else { image });
        }
    })?;
    let width = if gray { plane } else { 3 * plane };
    Ok(read.features(width, data))
}

/// Returns the label of each row.
///
/// # Errors
/// An unlabelled dataset.
pub fn labels_of(dataset: &Dataset, features: &Features) -> Result<Vec<u32>, Error> {
    let unlabelled =
        || Error::Setting(format!("{} has no labels; give a folder of class folders: PATH/CLASS/image.jpg", dataset.location()));
    features.labels.clone().ok_or_else(unlabelled)
}

/// The images that [`each_batch`] has read.
struct ReadImages {
    indices: Vec<u32>,
    labels: Option<Vec<u32>>,
    broken: Vec<(String, String)>,
}

impl ReadImages {
    /// Returns the features of these images, [images, width].
    fn features(self, width: usize, data: Vec<f32>) -> Features {
        Features { rows: self.indices.len(), width, data, indices: self.indices, labels: self.labels, broken: self.broken }
    }
}

/// Calls `work` with the evaluation views [images, 3, size, size] of each batch, in order. Only a few
/// batches are in memory at a time.
fn each_batch(dataset: &Dataset, size: u32, batch_size: usize, mut work: impl FnMut(&[f32])) -> Result<ReadImages, Error> {
    let workers = threads();
    let options = LoaderOptions { batch_size, seed: 0, workers, queue: 2 * workers, image_size: size, max_broken: 1.0 };
    let loader = Loader::new(dataset.clone(), ViewSpec::Evaluation, options);
    let (mut indices, mut labels) = (Vec::with_capacity(dataset.len()), Some(Vec::new()));
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        if let Some(views) = batch.views.first().filter(|_| !batch.indices.is_empty()) {
            work(views);
            indices.extend_from_slice(&batch.indices);
            match (&mut labels, &batch.targets) {
                (Some(labels), Some(targets)) => labels.extend_from_slice(targets),
                _ => labels = None,
            }
        }
        loader.recycle(batch);
    }
    let broken = loader.broken();
    if indices.len() + broken.len() != dataset.len() {
        // A thread of the loader ended early; figures of a part must not pass for figures of the set.
        return Err(DataError::Broken(format!(
            "loading {} stopped after {} of {} images",
            dataset.location(),
            indices.len(),
            dataset.len()
        ))
        .into());
    }
    if let Some((name, why)) = broken.first() {
        tracing::warn!(
            "{} of {} images of {} left out; first {}: {why}",
            broken.len(),
            dataset.len(),
            dataset.location(),
            name.escape_debug()
        );
    }
    Ok(ReadImages { indices, labels, broken })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::vit::{Initialization, VitConfig};
    use mimco_data::dataset::InMemoryImages;

    fn model(image: usize, patch: usize) -> (Vit, Parameters) {
        let config = VitConfig { heads: 2, ..VitConfig::plain(40, 2, 72, patch, image) };
        let mut parameters = Parameters::new();
        let vit = Vit::declare(&config, &mut parameters, "");
        vit.initialize(&mut parameters, Initialization::Xavier, 5);
        (vit, parameters)
    }

    fn set(n: usize, channels: usize) -> Dataset {
        let pixels = (0..n * 400 * channels).map(|i| (i * i % 7919 * 31 % 251) as u8).collect();
        let labels = Some((0..n as u32).map(|i| i % 3).collect());
        Dataset::from_memory("set", InMemoryImages { width: 20, height: 20, channels, pixels, labels }, vec!["c".into(); 3])
    }

    #[test]
    fn a_feature_does_not_depend_on_place_or_company() {
        let (vit, parameters) = model(20, 2);
        let group = TOKENS / 101;
        assert!(group < 64);
        let all = set(group + 7, 3);
        let mut order: Vec<u32> = (0..all.len() as u32).rev().collect();
        order.swap(0, 9);
        for kind in [FeatureKind::Class, FeatureKind::Mean] {
            let features = extract(&vit, &parameters, &all, kind).unwrap();
            assert_eq!((features.rows(), features.width()), (group + 7, 40));
            assert_ne!(features.row(0), features.row(1));
            let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            for chosen in [&order[..], &[13], &[5, 19, 20]] {
                let some = extract(&vit, &parameters, &all.subset(chosen), kind).unwrap();
                for (row, &index) in chosen.iter().enumerate() {
                    assert_eq!(bits(some.row(row)), bits(features.row(index as usize)), "image {index} in row {row}");
                }
            }
        }
    }

    #[test]
    fn a_mean_feature_is_the_mean_of_the_patch_tokens() {
        let (vit, parameters) = model(20, 2);
        let one = set(1, 1);
        let mut view = vec![0.0; 3 * 400];
        mimco_data::augment::eval_view(&one.load(0).unwrap(), 20, &mut view);
        let images = Tensor::from_slice([1, 3, 20, 20], &view);
        let tokens = vit.forward(&mut Tape::inference(&parameters), &images, &ForwardOptions::default()).x.value;
        let tokens = tokens.to_host();
        let mean = extract(&vit, &parameters, &one, FeatureKind::Mean).unwrap();
        let class = extract(&vit, &parameters, &one, FeatureKind::Class).unwrap();
        for column in 0..40 {
            let plain = (1..101).map(|token| tokens[token * 40 + column] as f64).sum::<f64>() / 100.0;
            assert!((mean.row(0)[column] as f64 - plain).abs() < 1e-5);
            assert!((class.row(0)[column] - tokens[column]).abs() < 1e-5);
        }
    }

    /// A BMP file of one gray pixel: file header, image header of 1 x 1 and 24 bits, a row filled up to four bytes.
    fn gray_pixel_bmp() -> Vec<u8> {
        let mut file = b"BM".to_vec();
        [58u32, 0, 54, 40, 1, 1, 1 | 24 << 16, 0, 4, 0, 0, 0, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend([100, 100, 100, 0]);
        file
    }

    #[test]
    fn broken_images_are_left_out_and_labels_follow() {
        let folder = tempfile::tempdir().unwrap();
        for (name, whole) in [("a/1", true), ("a/2", false), ("b/1", true), ("b/2", true)] {
            let path = folder.path().join(format!("{name}.bmp"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, if whole { gray_pixel_bmp() } else { b"no image".to_vec() }).unwrap();
        }
        let set = Dataset::open_labelled(folder.path()).unwrap();
        let features = pixels(&set, 2).unwrap();
        assert_eq!((features.rows(), features.width(), features.indices()), (3, 4, &[0, 2, 3][..]));
        assert_eq!(features.broken()[0].0, "a/2.bmp");
        assert_eq!(labels_of(&set, &features).unwrap(), [0, 1, 1]);
        let unlabelled = Dataset::open_unlabelled(folder.path()).unwrap();
        assert!(labels_of(&unlabelled, &pixels(&unlabelled, 2).unwrap()).unwrap_err().to_string().contains("no labels"));
        assert!(pixels(&set.subset(&[1]), 2).is_err());
    }

    #[test]
    fn pixels_of_gray_sets_have_one_channel() {
        let gray = pixels(&set(3, 1), 20).unwrap();
        assert_eq!((gray.rows(), gray.width(), gray.head(2).rows()), (3, 400, 2));
        let folder = tempfile::tempdir().unwrap();
        // CIFAR-10's layout: one label and three planes of 32 x 32 an image.
        let image = |red: u8| [vec![0u8], vec![red; 1024], vec![7; 2048]].concat();
        std::fs::write(folder.path().join("data_batch_1.bin"), [image(7), image(9)].concat()).unwrap();
        let mixed = pixels(&Dataset::open_unlabelled(folder.path()).unwrap(), 32).unwrap();
        assert_eq!(mixed.width(), 3 * 1024);
        assert_eq!(mixed.row(0), [7.0 / 255.0; 3072]);
        assert_eq!(mixed.row(1)[0], 9.0 / 255.0);
    }
}
