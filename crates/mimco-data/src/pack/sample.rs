//! Converting one image to its packed form.

use crate::augment::{Filter, crop_and_resize};
use crate::dataset::Dataset;
use crate::decode::{Crop, Rgb};
use crate::error::DataError;
use crate::pack::keys::Keys;
use crate::pack::options::{Format, PackOptions};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat};

/// Limit of a JPEG's width and height in pixels.
const MAX_JPEG_SIDE: u32 = 65_535;

/// An image in packed form.
pub(crate) struct Sample {
    pub key: String,
    /// Extension of the image's file, by its content.
    pub extension: &'static str,
    pub bytes: Vec<u8>,
    pub label: Option<u32>,
    pub shrunk: bool,
}

/// Reads an image and converts it to its packed form.
///
/// # Errors
/// Fails if the image cannot be read, or if its longer side exceeds JPEG's limit.
pub(crate) fn make(dataset: &Dataset, index: usize, keys: &Keys, options: &PackOptions) -> Result<Sample, DataError> {
    let raw = dataset.raw(index)?;
    let image = dataset.decode_raw(index, &raw)?;
    let shrunk = image.width.min(image.height) > options.size;
    // A dataset in memory has pixels, not files.
    let is_file = raw != image.pixels;
    let (extension, bytes) = match options.format {
        Format::Raw if shrunk => ("ppm", ppm(&shrink(&image, options.size))),
        Format::Raw => ("ppm", ppm(&image)),
        Format::Jpeg if shrunk => ("jpg", jpeg(&shrink(&image, options.size), options.quality, &dataset.name(index))?),
        Format::Jpeg if is_file => (extension(&raw), raw),
        Format::Jpeg => ("png", image.to_png()?),
    };
    Ok(Sample { key: keys.key(&dataset.name(index), index), extension, bytes, label: dataset.label(index), shrunk })
}

/// Resizes the shorter side to `size`; the longer one is rounded down as in torchvision's Resize.
fn shrink(image: &Rgb, size: u32) -> Rgb {
    let longer = |long: u32, short: u32| (size as u64 * long as u64 / short.max(1) as u64) as u32;
    let (width, height) =
        if image.width <= image.height { (size, longer(image.height, image.width)) } else { (longer(image.width, image.height), size) };
    let whole = Crop { top: 0, left: 0, width: image.width, height: image.height };
    crop_and_resize(image, whole, width, height, Filter::Bicubic)
}

/// Encodes an image as binary PPM: a text header, then RGB pixels.
fn ppm(image: &Rgb) -> Vec<u8> {
    [format!("P6\n{} {}\n255\n", image.width, image.height).as_bytes(), &image.pixels].concat()
}

/// Encodes an image as JPEG with full-resolution chroma (4:4:4): for resized photos, subsampling
/// (4:2:0) loses more detail than it saves bytes.
fn jpeg(image: &Rgb, quality: u8, name: &str) -> Result<Vec<u8>, DataError> {
    let (width, height) = (image.width, image.height);
    let error = |what: String| DataError::Image { name: name.into(), what };
    if width.max(height) > MAX_JPEG_SIDE {
        return Err(error(format!(
            "resized it is {width}x{height} px, over JPEG's limit of {MAX_JPEG_SIDE} per side; pack with --format raw"
        )));
    }
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    encoder
        .encode(&image.pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|e| error(e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")))?;
    Ok(bytes)
}

/// Returns the extension of a file with these bytes.
fn extension(bytes: &[u8]) -> &'static str {
    match (image::guess_format(bytes), bytes.get(1)) {
        (Ok(ImageFormat::Pnm), Some(b'2' | b'5')) => "pgm",
        (Ok(ImageFormat::Pnm), Some(b'3' | b'6')) => "ppm",
        (Ok(ImageFormat::Pnm), _) => "pnm",
        (Ok(ImageFormat::Tiff), _) => "tif",
        (Ok(format), _) => format.extensions_str().first().copied().unwrap_or("img"),
        (Err(_), _) => "img",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_side_is_the_size() {
        let flat = |width, height| Rgb { width, height, pixels: vec![51; (width * height * 3) as usize] };
        for ((width, height), size, expected) in
            [((300, 200), 100, (150, 100)), ((200, 301), 100, (100, 150)), ((7, 7), 3, (3, 3)), ((5, 900), 1, (1, 180))]
        {
            let small = shrink(&flat(width, height), size);
            assert_eq!((small.width, small.height), expected);
            assert!(small.pixels.iter().all(|p| *p == 51));
        }
    }

    #[test]
    fn a_strip_too_long_for_a_jpeg_is_an_error_that_names_it() {
        let strip = Rgb { width: 65_536, height: 1, pixels: vec![0; 3 * 65_536] };
        let error = jpeg(&strip, 92, "strip.png").unwrap_err().to_string();
        assert!(error.starts_with("strip.png: resized it is 65536x1 px") && !error.contains('\n'), "{error}");
    }
}
