//! How an image file is stored, determined without decoding its pixels. Damaged files give `None`
//! or any kind, never an error: whether a file is an image is the decoder's decision.

use crate::decode::guard::guard;
use crate::decode::palette_tiff;
use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::{ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};
use std::io::Cursor;

/// How an image is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ImageHeader {
    pub format: ImageFormat,
    pub kind: Kind,
    /// Whether EXIF data rotate or mirror the image.
    pub has_exif_rotation: bool,
    /// Whether the file contains more than one frame.
    pub is_animated: bool,
}

/// The kind of a stored pixel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    OneBit,
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    Palette,
    Cmyk,
    Gray16,
    GrayAlpha16,
    Rgb16,
    Rgba16,
    Other,
}

impl Kind {
    /// Returns the name of a kind in reports. The names are keys of `mimco check-data`'s JSON
    /// output, so their spelling remains.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OneBit => "1-bit",
            Kind::Gray => "grey",
            Kind::GrayAlpha => "grey+alpha",
            Kind::Rgb => "RGB",
            Kind::Rgba => "RGBA",
            Kind::Palette => "palette",
            Kind::Cmyk => "CMYK",
            Kind::Gray16 => "16-bit grey",
            Kind::GrayAlpha16 => "16-bit grey+alpha",
            Kind::Rgb16 => "16-bit RGB",
            Kind::Rgba16 => "16-bit RGBA",
            Kind::Other => "other",
        }
    }
}

/// Returns the name of a format in reports.
pub(crate) fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Gif => "GIF",
        ImageFormat::Pnm => "PNM",
        _ => "other",
    }
}

/// Reads the header of an image file; returns `None` for an unknown format.
pub(crate) fn read_header(bytes: &[u8]) -> Option<ImageHeader> {
    let format = image::guess_format(bytes).ok()?;
    // The decoder reports the colors that it returns; the file is inspected where it stores others.
    let decoder = guard(|| {
        let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().ok()?;
        Some((decoder.original_color_type(), decoder.orientation().ok()?))
    });
    let (colors, orientation) = decoder.flatten().unwrap_or((ExtendedColorType::Unknown(0), Orientation::NoTransforms));
    let kind = match format {
        ImageFormat::Jpeg => jpeg_kind(bytes),
        ImageFormat::Png => png_kind(bytes),
        ImageFormat::Gif => Some(Kind::Palette),
        ImageFormat::Bmp => bmp_kind(bytes),
        ImageFormat::Tiff => palette_tiff::as_gray(bytes).map(|_| Kind::Palette),
        _ => None,
    };
    let is_animated =
        match format {
            ImageFormat::Png => guard(|| PngDecoder::new(Cursor::new(bytes)).and_then(|decoder| decoder.is_apng()))
                .is_some_and(|apng| apng.unwrap_or(false)),
            ImageFormat::Gif => gif_is_animated(bytes),
            ImageFormat::WebP => guard(|| WebPDecoder::new(Cursor::new(bytes)).map(|decoder| decoder.has_animation()))
                .is_some_and(|webp| webp.unwrap_or(false)),
            _ => false,
        };
    let has_exif_rotation = orientation != Orientation::NoTransforms;
    Some(ImageHeader { format, kind: kind.unwrap_or(kind_of(colors)), has_exif_rotation, is_animated })
}

fn kind_of(colors: ExtendedColorType) -> Kind {
    match colors {
        ExtendedColorType::L1 => Kind::OneBit,
        ExtendedColorType::L8 => Kind::Gray,
        ExtendedColorType::La8 => Kind::GrayAlpha,
        ExtendedColorType::Rgb8 => Kind::Rgb,
        ExtendedColorType::Rgba8 => Kind::Rgba,
        ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16 => Kind::Cmyk,
        ExtendedColorType::L16 => Kind::Gray16,
        ExtendedColorType::La16 => Kind::GrayAlpha16,
        ExtendedColorType::Rgb16 => Kind::Rgb16,
        ExtendedColorType::Rgba16 => Kind::Rgba16,
        _ => Kind::Other,
    }
}

/// Returns the kind by the number of components in the frame header.
fn jpeg_kind(bytes: &[u8]) -> Option<Kind> {
    let mut at = 2; // after the start-of-image marker
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1, // fill byte before a marker
            // Frame headers, except for three other markers among them: tables, an extension,
            // arithmetic coding.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                // After the length: bits, height (2 bytes), width (2), components.
                return match bytes.get(at + 9)? {
                    1 => Some(Kind::Gray),
                    3 => Some(Kind::Rgb),
                    4 => Some(Kind::Cmyk),
                    _ => Some(Kind::Other),
                };
            }
            _ => at += 2 + u16::from_be_bytes([high, low]) as usize,
        }
    }
    None
}

/// Returns the kind by the header's bit depth and color type.
fn png_kind(bytes: &[u8]) -> Option<Kind> {
    let &[bits, colors] = bytes.get(24..26)? else { return None };
    match (colors, bits) {
        (0, 1) => Some(Kind::OneBit),
        (0, 16) => Some(Kind::Gray16),
        (0, _) => Some(Kind::Gray),
        (2, 16) => Some(Kind::Rgb16),
        (2, _) => Some(Kind::Rgb),
        (3, _) => Some(Kind::Palette),
        (4, 16) => Some(Kind::GrayAlpha16),
        (4, _) => Some(Kind::GrayAlpha),
        (6, 16) => Some(Kind::Rgba16),
        (6, _) => Some(Kind::Rgba),
        _ => None,
    }
}

/// Returns the kind by the bits per pixel; up to eight bits are palette indices.
fn bmp_kind(bytes: &[u8]) -> Option<Kind> {
    // Old headers have 12 bytes with sizes of two bytes each; newer ones have 40 bytes and more.
    let at = if bytes.get(14)? == &12 { 24 } else { 28 };
    match bytes.get(at)? {
        1 | 2 | 4 | 8 => Some(Kind::Palette),
        16 | 24 => Some(Kind::Rgb),
        _ => None,
    }
}

/// Returns whether a second frame follows. `image` would have to decode the first frame to tell.
fn gif_is_animated(bytes: &[u8]) -> bool {
    let palette = |flags: u8| if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    let Some(&flags) = bytes.get(10) else { return false };
    let (mut at, mut frames) = (13 + palette(flags), 0);
    loop {
        // An extension (marker, type), or a frame (marker, eight bytes of position and size, flags,
        // palette, bits per code); then blocks.
        at += match bytes.get(at) {
            Some(0x21) => 2,
            Some(0x2c) => {
                frames += 1;
                let Some(&flags) = bytes.get(at + 9).filter(|_| frames < 2) else { return frames > 1 };
                11 + palette(flags)
            }
            _ => return false,
        };
        // Each block follows its length; a block of length 0 is the last.
        while let Some(&length @ 1..) = bytes.get(at) {
            at += 1 + length as usize;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> ImageHeader {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name);
        read_header(&std::fs::read(path).unwrap()).unwrap_or_else(|| panic!("{name}"))
    }

    /// The fixtures are named after the way Pillow stored them.
    #[test]
    fn headers_are_read_from_files_of_all_kinds() {
        for (name, format, kind) in [
            ("cmyk.jpg", ImageFormat::Jpeg, Kind::Cmyk),
            ("gray.jpg", ImageFormat::Jpeg, Kind::Gray),
            ("progressive.jpg", ImageFormat::Jpeg, Kind::Rgb),
            ("palette.png", ImageFormat::Png, Kind::Palette),
            ("one_bit.png", ImageFormat::Png, Kind::OneBit),
            ("gray_alpha.png", ImageFormat::Png, Kind::GrayAlpha),
            ("gray16.png", ImageFormat::Png, Kind::Gray16),
            ("rgba.png", ImageFormat::Png, Kind::Rgba),
            ("palette.bmp", ImageFormat::Bmp, Kind::Palette),
            ("rgba.bmp", ImageFormat::Bmp, Kind::Rgb), // of 32 bits, but its header names no alpha
            ("lossy.webp", ImageFormat::WebP, Kind::Rgb),
            ("rgba.webp", ImageFormat::WebP, Kind::Rgba),
            ("lzw.tif", ImageFormat::Tiff, Kind::Rgb),
            ("packbits_gray.tif", ImageFormat::Tiff, Kind::Gray),
            ("palette.tif", ImageFormat::Tiff, Kind::Palette),
            ("one_bit.tif", ImageFormat::Tiff, Kind::OneBit),
            ("cmyk.tif", ImageFormat::Tiff, Kind::Cmyk),
            ("still.gif", ImageFormat::Gif, Kind::Palette),
            ("rgb.ppm", ImageFormat::Pnm, Kind::Rgb),
            ("text_15.pgm", ImageFormat::Pnm, Kind::Gray),
            ("one_bit.pnm", ImageFormat::Pnm, Kind::OneBit),
        ] {
            assert_eq!(of(name), ImageHeader { format, kind, has_exif_rotation: false, is_animated: false }, "{name}");
        }
        for animated in ["animated.gif", "animated.png", "animated_separate.png", "animated.webp"] {
            assert!(of(animated).is_animated, "{animated}");
        }
        for orientation in 1..=8 {
            assert_eq!(of(&format!("orientation_{orientation}.jpg")).has_exif_rotation, orientation != 1);
        }
        assert!(["png", "webp", "tif"].iter().all(|kind| of(&format!("orientation_6.{kind}")).has_exif_rotation));
    }

    #[test]
    fn truncated_and_damaged_files_do_not_panic() {
        for name in ["animated.gif", "animated.png", "animated.webp", "cmyk.jpg", "palette.tif", "palette.bmp", "text.ppm"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name);
            let whole = std::fs::read(path).unwrap();
            for end in 0..whole.len().min(300) {
                read_header(&whole[..end]);
                let mut damaged = whole.clone();
                damaged[end] = 0xff;
                read_header(&damaged);
            }
        }
        assert_eq!(read_header(b"hello, I am a text file"), None);
    }
}
