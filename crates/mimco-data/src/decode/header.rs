//! What an image file's first bytes say of how it is stored. Nothing is decoded, and a file that says nonsense is `None` or some kind, never an error:
//! whether it is an image at all is the decoder's to say.

use crate::guard::guard;
use image::{ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};
use std::io::Cursor;

/// How an image is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub format: ImageFormat,
    pub kind: Kind,
    /// Whether EXIF says to turn or mirror it.
    pub turned: bool,
    /// Whether more than one picture is in it, one after the other in time.
    pub moving: bool,
}

/// What a stored pixel is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    OneBit,
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    Palette,
    Cmyk,
    DeepGrey,
    DeepGreyAlpha,
    DeepRgb,
    DeepRgba,
    Other,
}

impl Kind {
    /// What a report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OneBit => "1-bit",
            Kind::Grey => "grey",
            Kind::GreyAlpha => "grey+alpha",
            Kind::Rgb => "RGB",
            Kind::Rgba => "RGBA",
            Kind::Palette => "palette",
            Kind::Cmyk => "CMYK",
            Kind::DeepGrey => "16-bit grey",
            Kind::DeepGreyAlpha => "16-bit grey+alpha",
            Kind::DeepRgb => "16-bit RGB",
            Kind::DeepRgba => "16-bit RGBA",
            Kind::Other => "other",
        }
    }
}

/// What a report calls a format.
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

/// Looks at a file's first bytes, and behind them for a second picture.
pub(crate) fn stored(bytes: &[u8]) -> Option<Stored> {
    let format = image::guess_format(bytes).ok()?;
    // The decoder's word on colours is of what it makes; where that is not what is stored, the file is asked.
    let said = guard(|| {
        let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().ok()?;
        Some((decoder.original_color_type(), decoder.orientation().ok()?))
    });
    let (colours, orientation) = said.flatten().unwrap_or((ExtendedColorType::Unknown(0), Orientation::NoTransforms));
    let kind = match format {
        ImageFormat::Jpeg => jpeg_kind(bytes),
        ImageFormat::Png => png_kind(bytes),
        ImageFormat::Gif => Some(Kind::Palette),
        ImageFormat::Bmp => bmp_kind(bytes),
        ImageFormat::Tiff => crate::palette_tiff::as_grey(bytes).map(|_| Kind::Palette),
        _ => None,
    };
    let moving = match format {
        ImageFormat::Png => png_moves(bytes),
        ImageFormat::Gif => gif_moves(bytes),
        ImageFormat::WebP => bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0),
        _ => false,
    };
    Some(Stored { format, kind: kind.unwrap_or(kind_of(colours)), turned: orientation != Orientation::NoTransforms, moving })
}

fn kind_of(colours: ExtendedColorType) -> Kind {
    match colours {
        ExtendedColorType::L1 => Kind::OneBit,
        ExtendedColorType::L8 => Kind::Grey,
        ExtendedColorType::La8 => Kind::GreyAlpha,
        ExtendedColorType::Rgb8 => Kind::Rgb,
        ExtendedColorType::Rgba8 => Kind::Rgba,
        ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16 => Kind::Cmyk,
        ExtendedColorType::L16 => Kind::DeepGrey,
        ExtendedColorType::La16 => Kind::DeepGreyAlpha,
        ExtendedColorType::Rgb16 => Kind::DeepRgb,
        ExtendedColorType::Rgba16 => Kind::DeepRgba,
        _ => Kind::Other,
    }
}

/// By the frame header's number of components.
fn jpeg_kind(bytes: &[u8]) -> Option<Kind> {
    let mut at = 2; // behind the start-of-image mark
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1, // filling before a mark
            // Frame headers, but for the three marks among them that are others: tables, an extension, arithmetic coding.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                // Behind the length: bits, height (2), width (2), components.
                return match bytes.get(at + 9)? {
                    1 => Some(Kind::Grey),
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

/// By the header's bits and colour type.
fn png_kind(bytes: &[u8]) -> Option<Kind> {
    let &[bits, colours] = bytes.get(24..26)? else { return None };
    match (colours, bits) {
        (0, 1) => Some(Kind::OneBit),
        (0, 16) => Some(Kind::DeepGrey),
        (0, _) => Some(Kind::Grey),
        (2, 16) => Some(Kind::DeepRgb),
        (2, _) => Some(Kind::Rgb),
        (3, _) => Some(Kind::Palette),
        (4, 16) => Some(Kind::DeepGreyAlpha),
        (4, _) => Some(Kind::GreyAlpha),
        (6, 16) => Some(Kind::DeepRgba),
        (6, _) => Some(Kind::Rgba),
        _ => None,
    }
}

/// Whether the chunk that says so comes before the picture.
fn png_moves(bytes: &[u8]) -> bool {
    let mut at = 8; // behind the signature
    // A chunk: length (4), name (4), content, checksum (4).
    while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let [a, b, c, d, name @ ..] = *head;
        match &name {
            b"acTL" => return true,
            b"IDAT" => return false,
            _ => at = at.saturating_add(12 + u32::from_be_bytes([a, b, c, d]) as usize),
        }
    }
    false
}

/// By the bits of a pixel: up to eight are a palette's numbers.
fn bmp_kind(bytes: &[u8]) -> Option<Kind> {
    // The header's size tells old ones of 12 bytes, which have sizes in two bytes each, from those of 40 and more.
    let at = if bytes.get(14)? == &12 { 24 } else { 28 };
    match bytes.get(at)? {
        1 | 2 | 4 | 8 => Some(Kind::Palette),
        16 | 24 => Some(Kind::Rgb),
        _ => None,
    }
}

/// Whether a second picture comes.
fn gif_moves(bytes: &[u8]) -> bool {
    let palette = |flags: u8| if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    let Some(&flags) = bytes.get(10) else { return false };
    let (mut at, mut pictures) = (13 + palette(flags), 0);
    loop {
        // An extension (its mark, its kind) or a picture (its mark, place and size in eight bytes, flags, palette, bits of a code); then blocks.
        at += match bytes.get(at) {
            Some(0x21) => 2,
            Some(0x2c) => {
                pictures += 1;
                let Some(&flags) = bytes.get(at + 9).filter(|_| pictures < 2) else { return pictures > 1 };
                11 + palette(flags)
            }
            _ => return false,
        };
        // Each block has its length before it; one of none is the last.
        while let Some(&length @ 1..) = bytes.get(at) {
            at += 1 + length as usize;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Stored {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name);
        stored(&std::fs::read(path).unwrap()).unwrap_or_else(|| panic!("{name}"))
    }

    /// The fixtures' names say how Pillow was told to store them.
    #[test]
    fn files_say_how_they_are_stored() {
        for (name, format, kind) in [
            ("cmyk.jpg", ImageFormat::Jpeg, Kind::Cmyk),
            ("grey.jpg", ImageFormat::Jpeg, Kind::Grey),
            ("progressive.jpg", ImageFormat::Jpeg, Kind::Rgb),
            ("palette.png", ImageFormat::Png, Kind::Palette),
            ("one_bit.png", ImageFormat::Png, Kind::OneBit),
            ("grey_alpha.png", ImageFormat::Png, Kind::GreyAlpha),
            ("grey16.png", ImageFormat::Png, Kind::DeepGrey),
            ("rgba.png", ImageFormat::Png, Kind::Rgba),
            ("palette.bmp", ImageFormat::Bmp, Kind::Palette),
            ("rgba.bmp", ImageFormat::Bmp, Kind::Rgb), // of 32 bits, but its header names no alpha
            ("lossy.webp", ImageFormat::WebP, Kind::Rgb),
            ("rgba.webp", ImageFormat::WebP, Kind::Rgba),
            ("lzw.tif", ImageFormat::Tiff, Kind::Rgb),
            ("packbits_grey.tif", ImageFormat::Tiff, Kind::Grey),
            ("palette.tif", ImageFormat::Tiff, Kind::Palette),
            ("one_bit.tif", ImageFormat::Tiff, Kind::OneBit),
            ("cmyk.tif", ImageFormat::Tiff, Kind::Cmyk),
            ("still.gif", ImageFormat::Gif, Kind::Palette),
            ("rgb.ppm", ImageFormat::Pnm, Kind::Rgb),
            ("text_15.pgm", ImageFormat::Pnm, Kind::Grey),
            ("one_bit.pnm", ImageFormat::Pnm, Kind::OneBit),
        ] {
            assert_eq!(of(name), Stored { format, kind, turned: false, moving: false }, "{name}");
        }
        for moving in ["moving.gif", "moving.png", "moving_beside.png", "moving.webp"] {
            assert!(of(moving).moving, "{moving}");
        }
        for orientation in 1..=8 {
            assert_eq!(of(&format!("orientation_{orientation}.jpg")).turned, orientation != 1);
        }
        assert!(["png", "webp", "tif"].iter().all(|kind| of(&format!("orientation_6.{kind}")).turned));
    }

    #[test]
    fn cut_and_damaged_files_are_looked_at_without_harm() {
        for name in ["moving.gif", "moving.png", "moving.webp", "cmyk.jpg", "palette.tif", "palette.bmp", "text.ppm"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name);
            let whole = std::fs::read(path).unwrap();
            for end in 0..whole.len().min(300) {
                stored(&whole[..end]);
                let mut damaged = whole.clone();
                damaged[end] = 0xff;
                stored(&damaged);
            }
        }
        assert_eq!(stored(b"hello, I am a text file"), None);
    }
}
