//! From an encoded image to its views. Crops are drawn before decoding, so that images are decoded
//! only as far as the crops need.

use crate::augment::{RandomView, eval_view, random_crop};
use crate::dataset::Encoded;
use crate::decode::{Need, reduced};
use crate::error::DataError;
use crate::random::{Purpose, keyed};

/// The views that each image becomes.
#[derive(Clone, PartialEq, Debug)]
pub enum ViewSpec {
    /// The evaluation transform: one view per image, images in order, a smaller last batch.
    Evaluation,
    /// Random views for training: images shuffled, only full batches.
    Random(Vec<RandomView>),
}

/// The key of the random numbers of an image's views.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// Index of the image in its dataset.
    pub index: u64,
}

impl ViewSpec {
    /// Returns the number of views per image.
    pub fn view_count(&self) -> usize {
        match self {
            ViewSpec::Evaluation => 1,
            ViewSpec::Random(views) => views.len(),
        }
    }

    /// Writes an image's views to the slices `out`, each [3, size, size] with values from 0 to 1.
    ///
    /// # Errors
    /// Fails if the image cannot be decoded.
    pub fn make<'a>(&self, encoded: &Encoded, key: Key, size: u32, out: impl IntoIterator<Item = &'a mut [f32]>) -> Result<(), DataError> {
        let ViewSpec::Random(views) = self else {
            let image = encoded.decode()?;
            out.into_iter().for_each(|out| eval_view(&image, size, out));
            return Ok(());
        };
        let (width, height) = encoded.size()?;
        let draw = |(which, view): (usize, &RandomView)| {
            let mut rng = keyed(key.seed, Purpose::View(which as u8), key.epoch, key.index);
            (random_crop(width, height, view.crop_scale, &mut rng), rng)
        };
        let (crops, rngs): (Vec<_>, Vec<_>) = views.iter().enumerate().map(draw).unzip();
        let (image, factor) = encoded.decode_region(&Need::of((width, height), &crops, size))?;
        for (((view, crop), mut rng), out) in views.iter().zip(crops).zip(rngs).zip(out) {
            view.apply(&image, reduced(crop, factor), size, &mut rng, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Filter, RandomOperation};
    use crate::decode::Rgb;
    use crate::digest::Fnv;

    /// Returns a digest of the views of 120 images.
    fn digest(spec: &ViewSpec) -> u64 {
        let mut digest = Fnv::default();
        for index in 0..120 {
            let (width, height) = (20 + index as u32 * 7 % 90, 20 + index as u32 * 13 % 70);
            let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 / 4 + (i * 3 % 190) as u8).collect();
            let encoded = Encoded::Pixels(Rgb { width, height, pixels });
            let mut views = vec![vec![0.0; 3 * 24 * 24]; spec.view_count()];
            let key = Key { seed: 5, epoch: index % 3, index };
            spec.make(&encoded, key, 24, views.iter_mut().map(Vec::as_mut_slice)).unwrap();
            views.concat().iter().for_each(|value| digest.add(&value.to_le_bytes()));
        }
        digest.value()
    }

    /// Runs of earlier versions must be reproducible, so views must not change by a bit.
    #[test]
    fn views_are_those_of_earlier_versions() {
        let flip = RandomOperation::Flip { probability: 0.5 };
        let contrastive = |blur: f32, solarize: f32| RandomView {
            crop_scale: (0.08, 1.0),
            filter: Filter::Bilinear,
            operations: vec![
                RandomOperation::ColorJitter { probability: 0.8, strengths: [0.4, 0.4, 0.2, 0.1] },
                RandomOperation::Grayscale { probability: 0.2 },
                RandomOperation::Blur { probability: blur, sigma: (0.1, 2.0) },
                RandomOperation::Solarize { probability: solarize, threshold: 128 },
                flip.clone(),
            ],
        };
        let two_views = ViewSpec::Random(vec![contrastive(1.0, 0.0), contrastive(0.1, 0.2)]);
        assert_eq!(digest(&two_views), 0x5833_894c_cb49_1f98);
        let masked = RandomView { crop_scale: (0.2, 1.0), filter: Filter::Bicubic, operations: vec![flip] };
        assert_eq!(digest(&ViewSpec::Random(vec![masked])), 0xe069_f643_f768_986d);
        assert_eq!(digest(&ViewSpec::Evaluation), 0x653b_f040_0beb_800a);
    }
}
