//! Cropping and antialiased resizing as PIL does it, by the `fast_image_resize` crate.

use crate::decode::{Crop, Rgb};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// An interpolation filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Triangle filter, PIL's bilinear.
    Bilinear,
    /// Cubic filter with a = -0.5, PIL's bicubic.
    Bicubic,
}

/// Returns a crop of an image resized to `width` x `height` pixels. Pixels outside the crop have no
/// influence.
pub(crate) fn crop_and_resize(image: &Rgb, crop: Crop, width: u32, height: u32, filter: Filter) -> Rgb {
    // Horizontally first, as PIL does (the crate begins vertically): values are rounded to eight
    // bits in between.
    let cropped = cut(image, crop);
    let across = resize(cropped, width, crop.height, filter);
    resize(across, width, height, filter)
}

fn resize(image: Rgb, width: u32, height: u32, filter: Filter) -> Rgb {
    if (image.width, image.height) == (width, height) {
        return image;
    }
    let mut pixels = vec![0u8; width as usize * height as usize * 3];
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let source = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, &image.pixels);
    let target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels);
    if let (Ok(source), Ok(mut target)) = (source, target) {
        // Fails only if sizes disagree; they agree by construction. `resize_typed` compiles for one
        // pixel type, `resize` for all of them.
        let resized = Resizer::new().resize_typed(&source, &mut target, &options);
        debug_assert!(resized.is_ok());
    }
    Rgb { width, height, pixels }
}

fn cut(image: &Rgb, crop: Crop) -> Rgb {
    let stride = image.width as usize * 3;
    let row = |y: u32| &image.pixels[(crop.top + y) as usize * stride + crop.left as usize * 3..][..crop.width as usize * 3];
    let mut pixels = Vec::with_capacity(crop.width as usize * crop.height as usize * 3);
    (0..crop.height).for_each(|y| pixels.extend_from_slice(row(y)));
    Rgb { width: crop.width, height: crop.height, pixels }
}
