//! Bytes to RGB: JPEG, PNG, WebP, BMP, TIFF by content, grey, RGBA, 16-bit, palette and CMYK made RGB, EXIF orientation honoured.

use crate::{DataError, palette_tiff};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Images of more pixels are refused before anything is allocated; PIL's limit.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Eight-bit RGB, rows from the top, [height, width, 3].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rgb {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// [height, width, 3]
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// As a PNG file.
    ///
    /// # Errors
    /// Where the sizes are not those of the pixels.
    pub fn to_png(&self) -> Result<Vec<u8>, DataError> {
        let error = |what: String| DataError::Image { name: "picture".into(), what };
        let image = image::RgbImage::from_raw(self.width, self.height, self.pixels.clone())
            .ok_or_else(|| error("its sizes are not those of its pixels".into()))?;
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, image::ImageFormat::Png).map_err(|e| error(e.to_string()))?;
        Ok(png.into_inner())
    }
}

/// Decodes an image file's bytes; `name` is for the error.
///
/// # Errors
/// What is not an image, is cut short, or has more than `max_pixels`.
pub fn decode(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Rgb, DataError> {
    // Some decoders' messages end or break in new lines; an error is one line.
    let error = |what: String| DataError::Image { name: name.to_string(), what: what.split_whitespace().collect::<Vec<_>>().join(" ") };
    // A decoder that panics on hostile bytes must not end a training.
    let result = catch_unwind(AssertUnwindSafe(|| decode_dynamic(bytes, max_pixels)));
    let image = result.unwrap_or_else(|_| Err("the decoder gave up on it".into())).map_err(error)?;
    let rgb = image.into_rgb8();
    Ok(Rgb { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() })
}

fn decode_dynamic(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else { return Err("is not a JPEG, PNG, WebP, BMP or TIFF image, whatever its name".into()) };
    if format == image::ImageFormat::Jpeg && !ends_as_jpeg(bytes) {
        return Err("the JPEG is cut short: its end is missing".into());
    }
    if format == image::ImageFormat::Tiff
        && let Some((grey, palette)) = palette_tiff::as_grey(bytes)
    {
        return decode_dynamic(&grey, max_pixels).map(|numbers| palette_tiff::coloured(numbers, &palette));
    }
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let pixels = width as u64 * height as u64;
    if pixels == 0 || pixels > max_pixels {
        return Err(format!("{width}x{height} pixels are over the limit of {max_pixels} (data.max_pixels)"));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits).map_err(|e| e.to_string())?;
    let orientation = decoder.orientation().map_err(|e| e.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether the end-of-image mark is there; decoders fill a cut image with grey and say nothing. Some cameras append data behind it, and put a
/// thumbnail with its own end into a segment before the picture: segments are passed over by their lengths.
fn ends_as_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2; // behind the start-of-image mark
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xff {
            at += 1; // filling before a mark
            continue;
        }
        at += 2 + u16::from_be_bytes([high, low]) as usize;
        if marker == START_OF_SCAN {
            // In a scan's data 0xff is always followed by a zero or a restart mark.
            return bytes.get(at..).is_some_and(|data| data.windows(2).any(|pair| pair == [0xff, 0xd9]));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, RgbImage, Rgba};

    fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_kind_of_image_becomes_rgb() {
        let rgb = DynamicImage::ImageRgb8(RgbImage::from_fn(9, 5, |x, y| image::Rgb([x as u8 * 20, y as u8 * 40, 100])));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let decoded = decode(&encode(&rgb, format), "x", MAX_PIXELS).unwrap();
            assert_eq!((decoded.width, decoded.height), (9, 5), "{format:?}");
            assert_eq!(decoded.pixels, rgb.as_bytes(), "{format:?}");
        }
        let jpeg = decode(&encode(&rgb, ImageFormat::Jpeg), "x", MAX_PIXELS).unwrap();
        assert!(jpeg.pixels.iter().zip(rgb.as_bytes()).all(|(a, b)| a.abs_diff(*b) < 40));
        let grey = DynamicImage::ImageLuma8(GrayImage::from_pixel(3, 2, Luma([77])));
        let deep = DynamicImage::ImageLuma16(ImageBuffer::from_pixel(3, 2, Luma([0x4d00u16])));
        let alpha = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(3, 2, Rgba([77, 77, 77, 0])));
        let grey_alpha = DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(3, 2, LumaA([77, 9])));
        for image in [grey, deep, alpha, grey_alpha] {
            assert_eq!(decode(&encode(&image, ImageFormat::Png), "x", MAX_PIXELS).unwrap().pixels, [77; 18]);
        }
    }

    #[test]
    fn what_is_no_image_is_an_error_that_names_it() {
        let photo =
            encode(&DynamicImage::ImageRgb8(RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 9]))), ImageFormat::Jpeg);
        for (bytes, word) in [
            (&b"hello, I am a text file"[..], "is not a"),
            (&b""[..], "empty"),
            (&photo[..photo.len() / 2], "cut short"),
            (&photo[..photo.len() - 2], "cut short"),
        ] {
            let error = decode(bytes, "cat.jpg", MAX_PIXELS).unwrap_err().to_string();
            assert!(error.contains("cat.jpg") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_huge_header_is_refused_before_anything_is_allocated() {
        // A BMP header of 20,000 x 20,000 x 24 bits with no pixels behind it.
        let mut bmp = vec![0u8; 54];
        bmp[..2].copy_from_slice(b"BM");
        bmp[10..14].copy_from_slice(&54u32.to_le_bytes());
        bmp[14..18].copy_from_slice(&40u32.to_le_bytes());
        bmp[18..22].copy_from_slice(&20_000i32.to_le_bytes());
        bmp[22..26].copy_from_slice(&20_000i32.to_le_bytes());
        bmp[26..28].copy_from_slice(&1u16.to_le_bytes());
        bmp[28..30].copy_from_slice(&24u16.to_le_bytes());
        let error = decode(&bmp, "bomb.bmp", MAX_PIXELS).unwrap_err().to_string();
        assert!(error.contains("20000x20000") && error.contains("data.max_pixels"), "{error}");
    }

    #[test]
    fn a_single_pixel_is_an_image() {
        let one = DynamicImage::ImageRgb8(RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])));
        assert_eq!(decode(&encode(&one, ImageFormat::Png), "x", MAX_PIXELS).unwrap().pixels, [1, 2, 3]);
    }
}
