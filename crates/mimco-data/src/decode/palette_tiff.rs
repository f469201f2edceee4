//! TIFF with a palette, which the `tiff` crate refuses: read as if its numbers were grey values, then coloured.

use image::{DynamicImage, RgbImage};

const BITS_PER_SAMPLE: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const COLOUR_MAP: u16 = 320;
const PALETTE: u16 = 3;
const BLACK_IS_ZERO: u16 = 1;

/// 256 colours.
pub type Palette = Vec<[u8; 3]>;

/// Of a TIFF whose first image has eight bits a pixel and a palette: the same file said to be grey, and the palette.
pub fn as_grey(bytes: &[u8]) -> Option<(Vec<u8>, Palette)> {
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
    // A directory: a count, then entries of tag (2), type (2), count (4), value or where it lies (4).
    let directory = long(4)? as usize;
    let entries = short(directory)? as usize;
    let entry = |tag| (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| short(at) == Some(tag));
    let (photometric, bits, map) = (entry(PHOTOMETRIC)?, entry(BITS_PER_SAMPLE)?, entry(COLOUR_MAP)?);
    if short(photometric + 8)? != PALETTE || long(bits + 4)? != 1 || short(bits + 8)? != 8 || long(map + 4)? != 3 * 256 {
        return None;
    }
    // All reds, all greens, all blues, in sixteen bits.
    let first = long(map + 8)? as usize;
    let part = |c: usize, i: usize| short(first.checked_add(2 * (256 * c + i))?).map(|v| (v >> 8) as u8);
    let palette = (0..256).map(|i| Some([part(0, i)?, part(1, i)?, part(2, i)?])).collect::<Option<Palette>>()?;
    let mut grey = bytes.to_vec();
    let value = if little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
    grey[photometric + 8..photometric + 10].copy_from_slice(&value);
    Some((grey, palette))
}

/// Numbers to the colours that they stand for.
pub fn coloured(numbers: DynamicImage, palette: &Palette) -> DynamicImage {
    let numbers = numbers.into_luma8();
    let colours = RgbImage::from_fn(numbers.width(), numbers.height(), |x, y| image::Rgb(palette[numbers.get_pixel(x, y)[0] as usize]));
    DynamicImage::ImageRgb8(colours)
}
