//! TIFF images with a palette, which the `tiff` crate does not support. They are decoded as
//! grayscale images of palette indices, which are then replaced by their colors.

use image::{DynamicImage, RgbImage};

const BITS_PER_SAMPLE: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const COLOR_MAP: u16 = 320;
const PALETTE: u16 = 3;
const BLACK_IS_ZERO: u16 = 1;

/// 256 RGB colors.
pub(crate) type Palette = Vec<[u8; 3]>;

/// Returns the palette of a TIFF file, and the same file marked as grayscale. Returns `None` if its
/// first image does not have eight bits per pixel and a palette.
pub(crate) fn as_gray(bytes: &[u8]) -> Option<(Vec<u8>, Palette)> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let two = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    };
    let long = |at: usize| {
        let four = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    };
    // A directory: a count, then entries of tag (2 bytes), type (2), count (4), value or offset
    // (4).
    let directory = long(4)? as usize;
    let entries = short(directory)? as usize;
    let entry = |tag| (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| short(at) == Some(tag));
    let (photometric, bits, map) = (entry(PHOTOMETRIC)?, entry(BITS_PER_SAMPLE)?, entry(COLOR_MAP)?);
    if short(photometric + 8)? != PALETTE || long(bits + 4)? != 1 || short(bits + 8)? != 8 || long(map + 4)? != 3 * 256 {
        return None;
    }
    // All red values, all green ones, all blue ones, with 16 bits each.
    let first = long(map + 8)? as usize;
    let part = |c: usize, i: usize| short(first.checked_add(2 * (256 * c + i))?).map(|v| (v >> 8) as u8);
    let palette = (0..256).map(|i| Some([part(0, i)?, part(1, i)?, part(2, i)?])).collect::<Option<Palette>>()?;
    let mut gray = bytes.to_vec();
    let value = if little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
    gray[photometric + 8..photometric + 10].copy_from_slice(&value);
    Some((gray, palette))
}

/// Replaces palette indices by their colors.
pub(crate) fn apply_palette(indices: DynamicImage, palette: &Palette) -> DynamicImage {
    let indices = indices.into_luma8();
    let colors = RgbImage::from_fn(indices.width(), indices.height(), |x, y| image::Rgb(palette[indices.get_pixel(x, y)[0] as usize]));
    DynamicImage::ImageRgb8(colors)
}
