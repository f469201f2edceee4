//! Bytes to RGB: JPEG, PNG, WebP, BMP, TIFF, GIF and PNM by content, grey, RGBA, 16-bit, palette and CMYK made RGB, EXIF orientation honoured,
//! of moving pictures the first, colour profiles passed over.

use crate::guard::guard;
use crate::jpeg::Header;
use crate::resize::Crop;
use crate::{DataError, palette_tiff};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::ops::Range;

/// Images of more pixels are refused before anything is allocated; PIL's limit.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Pixels from which on decoding at a reduced size is faster: below, the decoder that can do it loses by its threads what it saves.
const LARGE: u64 = 4_000_000;

const CUT_SHORT: &str = "the JPEG is cut short: its end is missing";

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

/// What of an image will be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need {
    /// Columns of the turned picture, pixels of its full size.
    pub columns: Range<u32>,
    /// Rows of the turned picture, pixels of its full size.
    pub rows: Range<u32>,
    /// So many times smaller, across and down, the picture still is large enough; 1, 2, 4 or 8 count.
    pub factor: u32,
}

impl Need {
    /// All of it, at its full size.
    pub fn everything() -> Need {
        Need { columns: 0..u32::MAX, rows: 0..u32::MAX, factor: 1 }
    }

    /// What crops of a picture of `whole` width and height need that are resized to `size` x `size`. Large pictures may be reduced so far that
    /// each crop still has `size` pixels across and down.
    pub fn of(whole: (u32, u32), crops: &[Crop], size: u32) -> Need {
        let span = |first: fn(&Crop) -> u32, length: fn(&Crop) -> u32| {
            let start = crops.iter().map(first).min().unwrap_or(0);
            start..crops.iter().map(|crop| first(crop).saturating_add(length(crop))).max().unwrap_or(0)
        };
        let large = whole.0 as u64 * whole.1 as u64 >= LARGE;
        let enough = |factor: &u32| large && crops.iter().all(|crop| crop.width.min(crop.height) / factor >= size);
        Need {
            columns: span(|crop| crop.left, |crop| crop.width),
            rows: span(|crop| crop.top, |crop| crop.height),
            factor: [8, 4, 2].into_iter().find(enough).unwrap_or(1),
        }
    }
}

/// Where a crop of the full size lies in a picture that is `factor` (1 or more) times smaller, in whole pixels of that.
pub fn reduced(crop: Crop, factor: u32) -> Crop {
    let side = |pixels: u32| (pixels / factor).max(1);
    Crop { top: crop.top / factor, left: crop.left / factor, height: side(crop.height), width: side(crop.width) }
}

/// Width and height of an image file's bytes, turned as [`decode`] turns it; `name` is for the error. Only the header is read.
///
/// # Errors
/// What is not an image.
pub fn probe(bytes: &[u8], name: &str) -> Result<(u32, u32), DataError> {
    guarded(name, || match Header::read(bytes) {
        Some(header) => Ok(header.turned_size()),
        None => size(bytes),
    })
}

/// Decodes an image file's bytes; `name` is for the error.
///
/// # Errors
/// What is not an image, is cut short, or has more than `max_pixels`.
pub fn decode(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Rgb, DataError> {
    decode_part(bytes, name, max_pixels, &Need::everything()).map(|(image, _)| image)
}

/// Decodes of an image file's bytes what is needed, and tells by what factor the image is reduced: 1, or up to that which `need` allows.
/// The image always has the size of the whole picture over that factor, rounded up; pixels that are not needed may be black. At factor 1
/// the needed ones are those of [`decode`].
///
/// # Errors
/// Those of [`decode`]; damage may go unseen where it is not needed.
pub fn decode_part(bytes: &[u8], name: &str, max_pixels: u64, need: &Need) -> Result<(Rgb, u32), DataError> {
    guarded(name, || {
        let (image, factor) = match jpeg_part(bytes, max_pixels, need)? {
            Some(part) => part,
            None => (decode_dynamic(bytes, max_pixels)?, 1),
        };
        let rgb = image.into_rgb8();
        Ok((Rgb { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() }, factor))
    })
}

/// An error of one line that names the image, also where a decoder panics: hostile bytes must not end a training.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    // Some decoders' messages end or break in new lines; an error is one line.
    let error = |what: String| DataError::Image { name: name.to_string(), what: what.split_whitespace().collect::<Vec<_>>().join(" ") };
    guard(work).unwrap_or_else(|| Err("the decoder gave up on it".into())).map_err(error)
}

/// Of a usual JPEG that its decoders make something of.
fn jpeg_part(bytes: &[u8], max_pixels: u64, need: &Need) -> Result<Option<(DynamicImage, u32)>, String> {
    let Some(header) = Header::read(bytes) else { return Ok(None) };
    if !ends_as_jpeg(bytes) {
        return Err(CUT_SHORT.into());
    }
    check_size(header.width, header.height, max_pixels)?;
    // A panic, too, is left to the other way.
    Ok(guard(|| header.decode(bytes, need)).flatten())
}

fn decode_dynamic(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage, String> {
    if let Some((grey, palette)) = palette_tiff::as_grey(bytes) {
        return decode_dynamic(&grey, max_pixels).map(|numbers| palette_tiff::coloured(numbers, &palette));
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

/// Width and height, turned.
fn size(bytes: &[u8]) -> Result<(u32, u32), String> {
    if let Some((grey, _)) = palette_tiff::as_grey(bytes) {
        return size(&grey);
    }
    let mut decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let turned = decoder.orientation().map_err(|e| e.to_string())?.to_exif() >= Orientation::Rotate90FlipH.to_exif();
    Ok(if turned { (height, width) } else { (width, height) })
}

fn open(bytes: &[u8]) -> Result<impl ImageDecoder, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else {
        return Err("is not a JPEG, PNG, WebP, BMP, TIFF, GIF or PNM image, whatever its name".into());
    };
    if format == ImageFormat::Jpeg && !ends_as_jpeg(bytes) {
        return Err(CUT_SHORT.into());
    }
    if format == ImageFormat::WebP && !holds_its_chunks(bytes) {
        return Err("the WebP is cut short".into());
    }
    reader.into_decoder().map_err(|e| e.to_string())
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    let pixels = width as u64 * height as u64;
    if pixels == 0 || pixels > max_pixels {
        return Err(format!("{width}x{height} pixels are over the limit of {max_pixels} (data.max_pixels)"));
    }
    Ok(())
}

/// Whether a WebP's parts are there as long as they say: its decoder makes room for some before it reads them.
fn holds_its_chunks(bytes: &[u8]) -> bool {
    let length = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(|length| u32::from_le_bytes(length) as usize);
    let Some(end) = length(4).map(|length| bytes.len().min(length.saturating_add(8))) else { return false };
    let mut at = 12; // behind `RIFF`, its length and `WEBP`
    while at + 8 <= bytes.len() {
        let Some(next) = length(at + 4).and_then(|length| at.checked_add(8)?.checked_add(length)) else { return false };
        // What lies behind the end is somebody else's, but for a part that the decoder looks for there too.
        if next > bytes.len() {
            return at >= end && !bytes[at..].starts_with(b"EXIF");
        }
        at = next.next_multiple_of(2);
    }
    true
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
            // In a scan's data 0xff is always followed by a zero or a restart mark. The end mostly is the last that is there.
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
    fn a_webps_chunk_that_claims_gigabytes_is_refused() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3])));
        let mut webp = encode(&image, ImageFormat::WebP);
        assert!(decode(&webp, "x", MAX_PIXELS).is_ok());
        webp.extend_from_slice(b"junk behind its end");
        assert!(decode(&webp, "x", MAX_PIXELS).is_ok());
        webp[16..20].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        for error in [decode(&webp, "x", MAX_PIXELS).err(), probe(&webp, "x").err()] {
            assert!(error.unwrap().to_string().contains("cut short"));
        }
    }

    #[test]
    fn a_single_pixel_is_an_image() {
        let one = DynamicImage::ImageRgb8(RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])));
        assert_eq!(decode(&encode(&one, ImageFormat::Png), "x", MAX_PIXELS).unwrap().pixels, [1, 2, 3]);
    }

    #[test]
    fn large_pictures_are_reduced_as_far_as_all_crops_allow() {
        let crop = |left, top, width, height| Crop { top, left, height, width };
        let need = Need::of((4000, 3000), &[crop(100, 50, 1000, 1900), crop(40, 90, 900, 800)], 224);
        assert_eq!(need, Need { columns: 40..1100, rows: 50..1950, factor: 2 });
        let factor = |side, size| Need::of((4000, 3000), &[crop(0, 0, side, side + 1)], size).factor;
        assert_eq!([447, 448, 895, 896, 1791, 1792, 3000].map(|side| factor(side, 224)), [1, 2, 2, 4, 4, 8, 8]);
        assert_eq!(Need::of((2000, 1999), &[crop(0, 0, 1900, 1900)], 224).factor, 1);
        assert_eq!(Need::of((2000, 2000), &[crop(0, 0, 1900, 1900)], 224).factor, 8);
    }

    #[test]
    fn reduced_crops_lie_inside_reduced_pictures() {
        for factor in [1, 2, 4, 8] {
            for (left, width) in [(0, 101), (13, 88), (7, 16), (100, 1), (3, 8)] {
                let crop = reduced(Crop { top: left, left, height: width, width }, factor);
                assert_eq!((crop.top, crop.height), (crop.left, crop.width));
                assert!(crop.width >= 1 && crop.left + crop.width <= 101u32.div_ceil(factor), "{factor} {left} {width}");
                assert!(crop.left * factor <= left && crop.left * factor + factor > left);
            }
        }
    }
}
