//! The evaluation transform, shared by `embed`, `knn` and `linear`.

use crate::augment::planes::Planes;
use crate::augment::resize::{Filter, crop_and_resize};
use crate::decode::{Crop, Rgb};

/// Models with a smaller image size, in pixels, get whole images resized to their size.
pub const MIN_CROPPED_SIZE: u32 = 64;

/// Writes the evaluation view of an image to `out` [3, size, size], values from 0 to 1.
///
/// An image of the model's size is used as it is. For models under 64 px it is resized to that
/// size. Otherwise the shorter side is resized to size · 256/224 (bicubic, antialiased), and the
/// center is cropped.
pub fn eval_view(image: &Rgb, size: u32, out: &mut [f32]) {
    let whole = Crop { top: 0, left: 0, height: image.height, width: image.width };
    if (image.width, image.height) == (size, size) {
        return Planes::of(image).to_floats(out);
    }
    if size < MIN_CROPPED_SIZE {
        return Planes::of(&crop_and_resize(image, whole, size, size, Filter::Bicubic)).to_floats(out);
    }
    let short = size * 256 / 224;
    // As torchvision's Resize does, the longer side is rounded down.
    let longer = |long: u32, side: u32| (short as u64 * long as u64 / side.max(1) as u64) as u32;
    let (width, height) =
        if image.width <= image.height { (short, longer(image.height, image.width)) } else { (longer(image.width, image.height), short) };
    // A strip a thousand times longer than wide would fill the memory; only its middle is resized.
    let source = middle(image);
    let (width, height) = if source == whole { (width, height) } else { (width.min(short * 64), height.min(short * 64)) };
    let resized = crop_and_resize(image, source, width, height, Filter::Bicubic);
    let half = |side: u32| ((side - size) as f32 / 2.0).round_ties_even() as u32;
    let crop = Crop { top: half(height), left: half(width), height: size, width: size };
    Planes::of(&crop_and_resize(&resized, crop, size, size, Filter::Bicubic)).to_floats(out);
}

/// Returns the whole image, or the middle of a strip: 64 times its shorter side.
fn middle(image: &Rgb) -> Crop {
    let limit = |long: u32, short: u32| long.min(short.saturating_mul(64));
    let (width, height) = (limit(image.width, image.height), limit(image.height, image.width));
    Crop { top: (image.height - height) / 2, left: (image.width - width) / 2, height, width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_all_sizes_are_filled() {
        let mut out = vec![0.0; 3 * 224 * 224];
        let flat = |width, height| Rgb { width, height, pixels: vec![51; (width * height * 3) as usize] };
        for (width, height) in [(224, 224), (400, 300), (300, 401), (10, 7), (1, 1), (1, 5000), (5000, 2)] {
            out.fill(9.0);
            eval_view(&flat(width, height), 224, &mut out);
            assert!(out.iter().all(|v| (v - 0.2).abs() < 1e-6), "{width}x{height}");
        }
        let exact = Rgb { width: 2, height: 2, pixels: (0..12).map(|i| i * 20).collect() };
        let mut small = [0.0; 12];
        eval_view(&exact, 2, &mut small);
        assert_eq!(small[..2], [0.0, 60.0 / 255.0]);
    }
}
