//! The views of an image that the methods train on, with torchvision's meanings and distributions.

use crate::Rgb;
use crate::blur::blur;
use crate::colour;
use crate::planes::Planes;
use crate::random::{below, between, unit};
use crate::resize::{Crop, Filter, crop_and_resize};
use rand_chacha::ChaCha8Rng;

/// Aspect ratios of a random crop, from width / height 3/4 to 4/3.
const RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// One view for masked image modelling: a random resized crop and a flip.
#[derive(Clone, PartialEq, Debug)]
pub struct MimAugment {
    /// Smallest and largest share of the image's area that a crop takes.
    pub crop_scale: (f32, f32),
    /// Probability of a flip.
    pub flip: f32,
}

/// The two views of MoCo v3.
#[derive(Clone, PartialEq, Debug)]
pub struct MocoAugment {
    /// Smallest and largest share of the image's area that a crop takes.
    pub crop_scale: (f32, f32),
    /// Probability of a flip.
    pub flip: f32,
    /// Probability of colour jitter.
    pub jitter: f32,
    /// Strengths of jitter: brightness, contrast, saturation, hue.
    pub strengths: [f32; 4],
    /// Probability of grey.
    pub grey: f32,
    /// Probability of a blur in view 1 and view 2.
    pub blur: [f32; 2],
    /// Deviations of the blur, pixels.
    pub blur_sigma: (f32, f32),
    /// Probability of solarisation in view 1 and view 2.
    pub solarize: [f32; 2],
}

impl MimAugment {
    /// The view of a crop into `out` [3, size, size], values in 0..1.
    pub fn view(&self, image: &Rgb, crop: Crop, size: u32, rng: &mut ChaCha8Rng, out: &mut [f32]) {
        let mut view = Planes::of(&crop_and_resize(image, crop, size, size, Filter::Bicubic));
        if unit(rng) < self.flip {
            colour::flip(&mut view);
        }
        view.to_floats(out);
    }
}

impl MocoAugment {
    /// View `which` (0 or 1) of a crop into `out` [3, size, size], values in 0..1.
    pub fn view(&self, image: &Rgb, crop: Crop, which: usize, size: u32, rng: &mut ChaCha8Rng, out: &mut [f32]) {
        let mut view = Planes::of(&crop_and_resize(image, crop, size, size, Filter::Bilinear));
        if unit(rng) < self.jitter {
            self.jitter_colours(&mut view, rng);
        }
        if unit(rng) < self.grey {
            colour::grey(&mut view);
        }
        if unit(rng) < self.blur[which] {
            blur(&mut view, between(rng, self.blur_sigma.0, self.blur_sigma.1));
        }
        if unit(rng) < self.solarize[which] {
            colour::solarize(&mut view, 128);
        }
        if unit(rng) < self.flip {
            colour::flip(&mut view);
        }
        view.to_floats(out);
    }

    /// The four operations in random order, each by a factor drawn around 1 (hue around 0).
    fn jitter_colours(&self, view: &mut Planes, rng: &mut ChaCha8Rng) {
        let mut order = [0, 1, 2, 3];
        for i in (1..4).rev() {
            order.swap(i, below(rng, i + 1));
        }
        let around = |rng: &mut ChaCha8Rng, strength: f32| between(rng, (1.0 - strength).max(0.0), 1.0 + strength);
        for operation in order {
            let strength = self.strengths[operation];
            match operation {
                0 => colour::brightness(view, around(rng, strength)),
                1 => colour::contrast(view, around(rng, strength)),
                2 => colour::saturation(view, around(rng, strength)),
                _ => colour::hue(view, between(rng, -strength, strength)),
            }
        }
    }
}

/// torchvision's RandomResizedCrop: an area and a ratio (uniform in its logarithm), ten tries, then the largest centre crop of a fair ratio.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, keyed};

    #[test]
    fn crops_lie_inside_with_the_asked_areas_and_ratios() {
        let mut areas = Vec::new();
        for i in 0..2000 {
            let crop = random_crop(300, 200, (0.2, 0.6), &mut keyed(0, Purpose::View(0), 0, i));
            assert!(crop.left + crop.width <= 300 && crop.top + crop.height <= 200);
            let ratio = crop.width as f32 / crop.height as f32;
            assert!((0.73..1.37).contains(&ratio), "{ratio}");
            areas.push(crop.width as f32 * crop.height as f32 / 60_000.0);
        }
        let mean = areas.iter().sum::<f32>() / areas.len() as f32;
        assert!((0.37..0.43).contains(&mean), "uniform in 0.2..0.6 has mean 0.4, got {mean}");
    }

    #[test]
    fn odd_sizes_fall_back_to_a_centre_crop() {
        let crop = |w, h| random_crop(w, h, (0.9, 1.0), &mut keyed(0, Purpose::View(0), 0, 0));
        assert_eq!(crop(1, 1), Crop { top: 0, left: 0, height: 1, width: 1 });
        assert_eq!(crop(1000, 10), Crop { top: 0, left: 493, height: 10, width: 13 });
    }

    #[test]
    fn views_are_functions_of_their_key() {
        let image = Rgb { width: 40, height: 30, pixels: (0..3600).map(|i| (i * 7 % 256) as u8).collect() };
        let augment = MocoAugment {
            crop_scale: (0.08, 1.0),
            flip: 0.5,
            jitter: 0.8,
            strengths: [0.4, 0.4, 0.2, 0.1],
            grey: 0.2,
            blur: [1.0, 0.1],
            blur_sigma: (0.1, 2.0),
            solarize: [0.0, 0.2],
        };
        let view = |index| {
            let mut out = vec![0.0; 3 * 16 * 16];
            let mut rng = keyed(1, Purpose::View(0), 0, index);
            let crop = random_crop(40, 30, augment.crop_scale, &mut rng);
            augment.view(&image, crop, 0, 16, &mut rng, &mut out);
            out
        };
        assert_eq!(view(3), view(3));
        assert_ne!(view(3), view(4));
        assert!(view(5).iter().all(|v| (0.0..=1.0).contains(v)));
    }
}
