//! Augmentation: random views of an image, and the transforms of evaluation and fine-tuning.
//!
//! Operations have torchvision's or timm's meanings and distributions, and PIL's pixel values.

mod affine;
mod blur;
mod color;
mod eval_transform;
mod histogram;
pub mod mixup;
mod planes;
mod rand_augment;
mod random_erasing;
mod resize;
#[cfg(test)]
mod tests;

pub use eval_transform::{MIN_CROPPED_SIZE, eval_view};
pub use planes::Planes;
pub use rand_augment::RandAugment;
pub use random_erasing::{Eraser, RandomErasing};
pub use resize::Filter;

use crate::decode::{Crop, Rgb};
use crate::random::{below, between, unit};
use blur::blur;
use rand_chacha::ChaCha8Rng;
pub(crate) use resize::crop_and_resize;

/// Smallest and largest aspect ratio (width / height) of a random crop.
const RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// A random view of an image: a random resized crop, followed by random operations.
#[derive(Clone, PartialEq, Debug)]
pub struct RandomView {
    /// Smallest and largest fraction of the image's area that the crop takes.
    pub crop_scale: (f32, f32),
    /// Interpolation of the resized crop.
    pub filter: Filter,
    /// Operations in the order in which they are drawn and applied.
    pub operations: Vec<RandomOperation>,
}

/// An operation that is applied to a view with a probability.
#[derive(Clone, PartialEq, Debug)]
pub enum RandomOperation {
    /// Changes brightness, contrast, saturation and hue in random order, each by a random factor.
    ColorJitter {
        /// Probability from 0 to 1.
        probability: f32,
        /// Strengths of brightness, contrast, saturation (factors of 1 ± strength) and hue (a shift
        /// of up to ± strength, a fraction of the color circle).
        strengths: [f32; 4],
    },
    /// Converts the view to grayscale.
    Grayscale {
        /// Probability from 0 to 1.
        probability: f32,
    },
    /// Applies a Gaussian blur.
    Blur {
        /// Probability from 0 to 1.
        probability: f32,
        /// Smallest and largest std of the blur, pixels.
        sigma: (f32, f32),
    },
    /// Inverts all values from a threshold on.
    Solarize {
        /// Probability from 0 to 1.
        probability: f32,
        /// Lowest value that is inverted.
        threshold: u8,
    },
    /// Mirrors the view horizontally.
    Flip {
        /// Probability from 0 to 1.
        probability: f32,
    },
}

impl RandomView {
    /// Writes the view of a crop to `out` [3, size, size], values from 0 to 1.
    ///
    /// # Panics
    /// Panics if the crop is not inside the image.
    pub fn apply(&self, image: &Rgb, crop: Crop, size: u32, rng: &mut ChaCha8Rng, out: &mut [f32]) {
        let mut view = Planes::of(&crop_and_resize(image, crop, size, size, self.filter));
        self.operations.iter().for_each(|operation| operation.apply(&mut view, rng));
        view.to_floats(out);
    }
}

impl RandomOperation {
    /// Draws whether the operation is applied, and applies it.
    fn apply(&self, view: &mut Planes, rng: &mut ChaCha8Rng) {
        let is_applied = unit(rng) < self.probability();
        match self {
            _ if !is_applied => {}
            RandomOperation::ColorJitter { strengths, .. } => jitter_colors(view, strengths, rng),
            RandomOperation::Grayscale { .. } => color::grayscale(view),
            RandomOperation::Blur { sigma, .. } => blur(view, between(rng, sigma.0, sigma.1)),
            RandomOperation::Solarize { threshold, .. } => color::solarize(view, *threshold),
            RandomOperation::Flip { .. } => color::flip(view),
        }
    }

    fn probability(&self) -> f32 {
        match self {
            RandomOperation::ColorJitter { probability, .. }
            | RandomOperation::Grayscale { probability }
            | RandomOperation::Blur { probability, .. }
            | RandomOperation::Solarize { probability, .. }
            | RandomOperation::Flip { probability } => *probability,
        }
    }
}

/// Applies the four color operations in random order, each with a random factor.
fn jitter_colors(view: &mut Planes, strengths: &[f32; 4], rng: &mut ChaCha8Rng) {
    let mut order = [0, 1, 2, 3];
    for i in (1..4).rev() {
        order.swap(i, below(rng, i + 1));
    }
    let around = |rng: &mut ChaCha8Rng, strength: f32| between(rng, (1.0 - strength).max(0.0), 1.0 + strength);
    for operation in order {
        let strength = strengths[operation];
        match operation {
            0 => color::brightness(view, around(rng, strength)),
            1 => color::contrast(view, around(rng, strength)),
            2 => color::saturation(view, around(rng, strength)),
            _ => color::hue(view, between(rng, -strength, strength)),
        }
    }
}

/// Draws a crop as torchvision's RandomResizedCrop does: an area and an aspect ratio (uniform in
/// its logarithm), with ten attempts, then the largest center crop of an allowed ratio. `scale` is
/// the smallest and largest fraction of the image's area.
pub fn random_crop(width: u32, height: u32, scale: (f32, f32), rng: &mut ChaCha8Rng) -> Crop {
    let area = width as f32 * height as f32;
    for _ in 0..10 {
        let target = area * between(rng, scale.0, scale.1);
        let ratio = between(rng, RATIO.0.ln(), RATIO.1.ln()).exp();
        let (w, h) = ((target * ratio).sqrt().round() as u32, (target / ratio).sqrt().round() as u32);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let (top, left) = (below(rng, (height - h + 1) as usize) as u32, below(rng, (width - w + 1) as usize) as u32);
            return Crop { top, left, height: h, width: w };
        }
    }
    let ratio = width as f32 / height as f32;
    let (w, h) = if ratio < RATIO.0 {
        (width, ((width as f32 / RATIO.0).round() as u32).clamp(1, height))
    } else if ratio > RATIO.1 {
        (((height as f32 * RATIO.1).round() as u32).clamp(1, width), height)
    } else {
        (width, height)
    };
    Crop { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}
