//! Decoding image files to 8-bit RGB.
//!
//! JPEG, PNG, WebP, BMP, TIFF, GIF and PNM are recognized by their content. Grayscale, RGBA,
//! 16-bit, palette and CMYK images are converted to RGB. The EXIF orientation is applied, color
//! profiles are ignored, and of animations the first frame is decoded.

pub(crate) mod guard;
pub(crate) mod header;
mod jpeg;
mod palette_tiff;
mod region;
mod rgb;

pub use guard::is_guarded;
pub use region::{Crop, Need, reduced};
pub use rgb::Rgb;

use crate::error::DataError;
use guard::guard;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use jpeg::Header;
use std::io::Cursor;

/// Default limit of pixels per image, PIL's. Larger images are refused before anything is
/// allocated.
pub const MAX_PIXELS: u64 = 178_956_970;

const TRUNCATED: &str = "the JPEG is truncated: its end is missing";

/// Returns width and height of an image file in pixels, after applying the EXIF orientation. Only
/// the header is read. `name` is for the error.
///
/// # Errors
/// Fails if the bytes are not an image.
pub fn probe(bytes: &[u8], name: &str) -> Result<(u32, u32), DataError> {
    guarded(name, || match Header::read(bytes) {
        Some(header) => Ok(header.oriented_size()),
        None => size(bytes),
    })
}

/// Decodes an image file. `name` is for the error.
///
/// # Errors
/// Fails if the bytes are not an image, are truncated, or have more than `max_pixels` pixels.
pub fn decode(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Rgb, DataError> {
    decode_region(bytes, name, max_pixels, &Need::everything()).map(|(image, _)| image)
}

/// Decodes the needed region of an image file, and returns the image with its reduction factor.
///
/// JPEGs are decoded only as far as needed. The image always has the size of the whole image
/// divided by the factor, rounded up; pixels that are not needed may be black. At factor 1, the
/// needed pixels are those of [`decode`]. The factor is at most `need.factor`.
///
/// # Errors
/// Fails as [`decode`] does. Damage outside the needed region may go undetected.
pub fn decode_region(bytes: &[u8], name: &str, max_pixels: u64, need: &Need) -> Result<(Rgb, u32), DataError> {
    guarded(name, || {
        let (image, factor) = match jpeg_region(bytes, max_pixels, need)? {
            Some(decoded) => decoded,
            None => (decode_dynamic(bytes, max_pixels)?, 1),
        };
        let rgb = image.into_rgb8();
        Ok((Rgb { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() }, factor))
    })
}

/// Runs a decoder. Its errors and panics become errors of one line that name the image.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    // Messages of some decoders contain line breaks.
    let error = |what: String| DataError::Image { name: name.to_string(), what: what.split_whitespace().collect::<Vec<_>>().join(" ") };
    guard(work).unwrap_or_else(|| Err("the decoder failed".into())).map_err(error)
}

/// Decodes a usual JPEG; returns `None` for other files and where the decoders fail.
fn jpeg_region(bytes: &[u8], max_pixels: u64, need: &Need) -> Result<Option<(DynamicImage, u32)>, String> {
    let Some(header) = Header::read(bytes) else { return Ok(None) };
    if !ends_as_jpeg(bytes) {
        return Err(TRUNCATED.into());
    }
    check_size(header.width, header.height, max_pixels)?;
    // After a panic, the `image` crate gets a try.
    Ok(guard(|| header.decode(bytes, need)).flatten())
}

/// Decodes any image with the `image` crate.
fn decode_dynamic(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage, String> {
    if let Some((gray, palette)) = palette_tiff::as_gray(bytes) {
        return decode_dynamic(&gray, max_pixels).map(|indices| palette_tiff::apply_palette(indices, &palette));
    }
    let mut decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits).map_err(|e| e.to_string())?;
    let orientation = decoder.orientation().map_err(|e| e.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Returns width and height after applying the EXIF orientation.
fn size(bytes: &[u8]) -> Result<(u32, u32), String> {
    if let Some((gray, _)) = palette_tiff::as_gray(bytes) {
        return size(&gray);
    }
    let mut decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let transposed = decoder.orientation().map_err(|e| e.to_string())?.to_exif() >= Orientation::Rotate90FlipH.to_exif();
    Ok(if transposed { (height, width) } else { (width, height) })
}

/// Opens a decoder of the `image` crate.
fn open(bytes: &[u8]) -> Result<impl ImageDecoder, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else {
        return Err("is not a JPEG, PNG, WebP, BMP, TIFF, GIF or PNM image, whatever its name".into());
    };
    if format == ImageFormat::Jpeg && !ends_as_jpeg(bytes) {
        return Err(TRUNCATED.into());
    }
    if format == ImageFormat::WebP && !has_all_chunks(bytes) {
        return Err("the WebP is truncated".into());
    }
    reader.into_decoder().map_err(|e| e.to_string())
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    let pixels = width as u64 * height as u64;
    if pixels == 0 || pixels > max_pixels {
        return Err(format!("{width}x{height} pixels exceed the limit of {max_pixels} (data.max_pixels)"));
    }
    Ok(())
}

/// Returns whether the chunks of a WebP are as long as their headers claim. The decoder allocates
/// some chunks before it reads them.
fn has_all_chunks(bytes: &[u8]) -> bool {
    let length = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(|length| u32::from_le_bytes(length) as usize);
    let Some(end) = length(4).map(|length| bytes.len().min(length.saturating_add(8))) else { return false };
    let mut at = 12; // after `RIFF`, its length and `WEBP`
    while at + 8 <= bytes.len() {
        let Some(next) = length(at + 4).and_then(|length| at.checked_add(8)?.checked_add(length)) else { return false };
        // Bytes after the end are ignored, except for an `EXIF` chunk, which the decoder reads
        // there too.
        if next > bytes.len() {
            return at >= end && !bytes[at..].starts_with(b"EXIF");
        }
        at = next.next_multiple_of(2);
    }
    true
}

/// Returns whether the end-of-image marker is present; decoders silently fill a truncated image
/// with gray. Some cameras append data after the marker, and store a thumbnail with its own marker
/// in a segment before the image. Such segments are skipped by their lengths.
fn ends_as_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2; // after the start-of-image marker
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xff {
            at += 1; // fill byte before a marker
            continue;
        }
        at += 2 + u16::from_be_bytes([high, low]) as usize;
        if marker == START_OF_SCAN {
            // In the data of a scan, 0xff is followed by a zero or a restart marker. The search
            // starts at the end of the file, where the marker usually is.
            return bytes.get(at..).is_some_and(|data| data.windows(2).rev().any(|pair| pair == [0xff, 0xd9]));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageBuffer, Luma, LumaA, RgbImage, Rgba};

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
        let gray = DynamicImage::ImageLuma8(GrayImage::from_pixel(3, 2, Luma([77])));
        let deep = DynamicImage::ImageLuma16(ImageBuffer::from_pixel(3, 2, Luma([0x4d00u16])));
        let alpha = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(3, 2, Rgba([77, 77, 77, 0])));
        let gray_alpha = DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(3, 2, LumaA([77, 9])));
        for image in [gray, deep, alpha, gray_alpha] {
            assert_eq!(decode(&encode(&image, ImageFormat::Png), "x", MAX_PIXELS).unwrap().pixels, [77; 18]);
        }
    }

    #[test]
    fn other_files_are_errors_that_name_them() {
        let photo =
            encode(&DynamicImage::ImageRgb8(RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 9]))), ImageFormat::Jpeg);
        for (bytes, word) in [
            (&b"hello, I am a text file"[..], "is not a"),
            (&b""[..], "empty"),
            (&photo[..photo.len() / 2], "truncated"),
            (&photo[..photo.len() - 2], "truncated"),
        ] {
            let error = decode(bytes, "cat.jpg", MAX_PIXELS).unwrap_err().to_string();
            assert!(error.contains("cat.jpg") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_huge_header_is_an_error_before_anything_is_allocated() {
        // A BMP header of 20,000 x 20,000 x 24 bits without pixels.
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
    fn a_webp_chunk_that_claims_gigabytes_is_an_error() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3])));
        let mut webp = encode(&image, ImageFormat::WebP);
        assert!(decode(&webp, "x", MAX_PIXELS).is_ok());
        webp.extend_from_slice(b"junk after its end");
        assert!(decode(&webp, "x", MAX_PIXELS).is_ok());
        webp[16..20].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        for error in [decode(&webp, "x", MAX_PIXELS).err(), probe(&webp, "x").err()] {
            assert!(error.unwrap().to_string().contains("truncated"));
        }
    }

    #[test]
    fn a_single_pixel_is_an_image() {
        let one = DynamicImage::ImageRgb8(RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])));
        assert_eq!(decode(&encode(&one, ImageFormat::Png), "x", MAX_PIXELS).unwrap().pixels, [1, 2, 3]);
    }
}
