//! Resizing, cropping, color operations and blur, compared with the results of torchvision and
//! Pillow on the same image; `tests/fixtures/make_fixtures.py` has the parameters.

use crate::augment::blur::blur;
use crate::augment::color;
use crate::augment::eval_transform::eval_view;
use crate::augment::planes::Planes;
use crate::augment::resize::{Filter, crop_and_resize};
use crate::decode::{Crop, Rgb};

/// Reads a fixture.
pub(super) fn fixture(name: &str) -> Rgb {
    let path = format!("{}/tests/fixtures/parity/{name}.png", env!("CARGO_MANIFEST_DIR"));
    let image = image::open(path).unwrap().into_rgb8();
    Rgb { width: image.width(), height: image.height(), pixels: image.into_raw() }
}

/// Returns the largest difference of two images, in 1/255, without `border` pixels on each side.
pub(super) fn difference(a: &Rgb, b: &Rgb, border: u32) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let inside = |i: usize| {
        let (x, y) = ((i / 3) as u32 % a.width, (i / 3) as u32 / a.width);
        x.min(y).min(a.width - 1 - x).min(a.height - 1 - y) >= border
    };
    let pairs = a.pixels.iter().zip(&b.pixels).enumerate();
    pairs.filter(|(i, _)| inside(*i)).map(|(_, (a, b))| a.abs_diff(*b)).max().unwrap()
}

/// Returns the source after an operation on its planes.
fn after(operation: &dyn Fn(&mut Planes)) -> Rgb {
    let source = fixture("source");
    let mut planes = Planes::of(&source);
    operation(&mut planes);
    let [r, g, b] = planes.channels();
    let pixels = r.iter().zip(&*g).zip(&*b).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
    Rgb { pixels, ..source }
}

/// Asserts that the source after a color operation is within `tolerance` of the fixture `name`.
fn assert_colors(name: &str, tolerance: u8, operation: impl Fn(&mut Planes)) {
    let difference = difference(&after(&operation), &fixture(name), 0);
    assert!(difference <= tolerance, "{name}: {difference} of 255 away");
}

#[test]
fn crops_are_resized_as_torchvision_does() {
    let down = Crop { top: 3, left: 5, height: 30, width: 37 };
    let up = Crop { top: 9, left: 20, height: 11, width: 8 };
    for (name, crop, filter) in [
        ("bilinear_down", down, Filter::Bilinear),
        ("bilinear_up", up, Filter::Bilinear),
        ("bicubic_down", down, Filter::Bicubic),
        ("bicubic_up", up, Filter::Bicubic),
    ] {
        let resized = crop_and_resize(&fixture("source"), crop, 16, 16, filter);
        let difference = difference(&resized, &fixture(name), 0);
        assert!(difference <= 1, "{name}: {difference} of 255 away");
    }
}

#[test]
fn the_evaluation_transform_is_torchvisions() {
    let source = fixture("source");
    let mut rotated =
        image::DynamicImage::ImageRgb8(image::RgbImage::from_raw(source.width, source.height, source.pixels.clone()).unwrap());
    rotated = rotated.rotate270(); // clockwise, so a quarter turn counterclockwise
    let tall = Rgb { width: rotated.width(), height: rotated.height(), pixels: rotated.into_rgb8().into_raw() };
    for (name, image, size) in [("evaluation_28", &source, 28), ("evaluation_wide_64", &source, 64), ("evaluation_tall_64", &tall, 64)] {
        let plane = (size * size) as usize;
        let mut out = vec![0.0; 3 * plane];
        eval_view(image, size, &mut out);
        for (i, pixel) in fixture(name).pixels.iter().enumerate() {
            let ours = out[i % 3 * plane + i / 3] * 255.0;
            assert!((ours - *pixel as f32).abs() <= 1.01, "{name}: {ours} for {pixel} at {i}");
        }
    }
}

#[test]
fn jitter_is_torchvisions() {
    for factor in [0.6, 1.4] {
        assert_colors(&format!("brightness_{factor}"), 1, |i| color::brightness(i, factor));
        assert_colors(&format!("contrast_{factor}"), 1, |i| color::contrast(i, factor));
        assert_colors(&format!("saturation_{factor}"), 1, |i| color::saturation(i, factor));
    }
    for shift in [-0.1, 0.07, 0.5] {
        assert_colors(&format!("hue_{shift}"), 1, |i| color::hue(i, shift));
    }
}

#[test]
fn grayscale_solarization_and_flip_are_exact() {
    assert_colors("gray", 0, color::grayscale);
    assert_colors("solarize", 0, |i| color::solarize(i, 128));
    assert_colors("flip", 0, color::flip);
}

#[test]
fn blur_is_gaussian() {
    for sigma in [0.1f32, 0.5, 1.0, 2.0] {
        let name = if sigma.fract() == 0.0 { format!("{sigma:.1}") } else { sigma.to_string() };
        assert_colors(&format!("gaussian_{name}"), 1, |i| blur(i, sigma));
        // Pillow's own blur approximates with three box blurs: up to 3 off on this noisy image, and
        // more near the edges, which it repeats three times.
        let image = after(&|i| blur(i, sigma));
        let away = difference(&image, &fixture(&format!("pil_blur_{name}")), 6);
        assert!(away <= 3, "sigma {sigma}: {away} of 255 from Pillow's");
    }
}
