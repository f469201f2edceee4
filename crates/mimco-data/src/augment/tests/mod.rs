//! Tests of views and random crops, and parity with PIL, torchvision and timm.

mod pil_parity;
mod rand_augment_parity;

use crate::augment::{Filter, RandomOperation, RandomView, random_crop};
use crate::decode::{Crop, Rgb};
use crate::random::{Purpose, keyed};
use proptest::prelude::*;

#[test]
fn crops_are_inside_with_the_given_areas_and_ratios() {
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
fn odd_sizes_fall_back_to_a_center_crop() {
    let crop = |w, h| random_crop(w, h, (0.9, 1.0), &mut keyed(0, Purpose::View(0), 0, 0));
    assert_eq!(crop(1, 1), Crop { top: 0, left: 0, height: 1, width: 1 });
    assert_eq!(crop(1000, 10), Crop { top: 0, left: 493, height: 10, width: 13 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn crops_are_inside_images_of_any_size(width in 1u32..5000, height in 1u32..5000, low in 0f32..1.0, high in 0f32..1.0, index: u64) {
        let scale = (low.min(high), low.max(high));
        let crop = random_crop(width, height, scale, &mut keyed(0, Purpose::View(0), 0, index));
        prop_assert!(crop.width >= 1 && crop.height >= 1);
        prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
    }
}

#[test]
fn views_are_functions_of_their_key() {
    let image = Rgb { width: 40, height: 30, pixels: (0..3600).map(|i| (i * 7 % 256) as u8).collect() };
    let operations = vec![
        RandomOperation::ColorJitter { probability: 0.8, strengths: [0.4, 0.4, 0.2, 0.1] },
        RandomOperation::Grayscale { probability: 0.2 },
        RandomOperation::Blur { probability: 1.0, sigma: (0.1, 2.0) },
        RandomOperation::Solarize { probability: 0.2, threshold: 128 },
        RandomOperation::Flip { probability: 0.5 },
    ];
    let random = RandomView { crop_scale: (0.08, 1.0), filter: Filter::Bilinear, operations };
    let view = |index| {
        let mut out = vec![0.0; 3 * 16 * 16];
        let mut rng = keyed(1, Purpose::View(0), 0, index);
        let crop = random_crop(40, 30, random.crop_scale, &mut rng);
        random.apply(&image, crop, 16, &mut rng, &mut out);
        out
    };
    assert_eq!(view(3), view(3));
    assert_ne!(view(3), view(4));
    assert!(view(5).iter().all(|v| (0.0..=1.0).contains(v)));
}
