//! From an image's bytes to its views: crops are drawn first, so that no more is decoded than they need.

use crate::augment::{MimAugment, MocoAugment};
use crate::decode::{Need, reduced};
use crate::random::{Purpose, keyed};
use crate::source::Encoded;
use crate::transform::evaluation_view;
use crate::{DataError, augment::random_crop};

/// How images become views.
#[derive(Clone, PartialEq, Debug)]
pub enum Pipeline {
    /// The two views of MoCo v3, samples shuffled.
    MocoV3(MocoAugment),
    /// One view for masked image modelling, samples shuffled.
    Mim(MimAugment),
    /// The evaluation transform, samples in order, the last batch as it comes.
    Evaluation,
}

/// What names the draws of an image's views.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The run's.
    pub seed: u64,
    /// Which pass over the set.
    pub epoch: u64,
    /// Which image.
    pub index: u64,
}

impl Pipeline {
    /// Views an image becomes.
    pub fn views(&self) -> usize {
        if let Pipeline::MocoV3(_) = self { 2 } else { 1 }
    }

    /// Makes an image's views, one into each of `out` [3, size, size], values in 0..1.
    ///
    /// # Errors
    /// An image that cannot be decoded.
    pub fn make<'a>(&self, encoded: &Encoded, key: Key, size: u32, out: impl IntoIterator<Item = &'a mut [f32]>) -> Result<(), DataError> {
        let crop_scale = match self {
            Pipeline::MocoV3(augment) => augment.crop_scale,
            Pipeline::Mim(augment) => augment.crop_scale,
            Pipeline::Evaluation => {
                let image = encoded.decode()?;
                out.into_iter().for_each(|out| evaluation_view(&image, size, out));
                return Ok(());
            }
        };
        let (width, height) = encoded.size()?;
        let draw = |which| {
            let mut rng = keyed(key.seed, Purpose::View(which as u8), key.epoch, key.index);
            (random_crop(width, height, crop_scale, &mut rng), rng)
        };
        let (crops, rngs): (Vec<_>, Vec<_>) = (0..self.views()).map(draw).unzip();
        let (image, factor) = encoded.decode_part(&Need::of((width, height), &crops, size))?;
        for (which, ((crop, mut rng), out)) in crops.into_iter().zip(rngs).zip(out).enumerate() {
            let crop = reduced(crop, factor);
            match self {
                Pipeline::MocoV3(augment) => augment.view(&image, crop, which, size, &mut rng, out),
                Pipeline::Mim(augment) => augment.view(&image, crop, size, &mut rng, out),
                Pipeline::Evaluation => {}
            }
        }
        Ok(())
    }
}
