//! Regions of an image, and how much of an image they need.

use std::ops::Range;

/// Images with fewer pixels are decoded at full size: the decoder that can reduce them is slower,
/// as it starts threads.
const MIN_REDUCED_PIXELS: u64 = 4_000_000;

/// A rectangle of an image in whole pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crop {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Number of rows.
    pub height: u32,
    /// Number of columns.
    pub width: u32,
}

/// The part of an image that is needed, and the lowest sufficient resolution.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need {
    /// Columns of the oriented image at full size, pixels.
    pub columns: Range<u32>,
    /// Rows of the oriented image at full size, pixels.
    pub rows: Range<u32>,
    /// Largest factor by which width and height may be reduced; 1, 2, 4 and 8 are used.
    pub factor: u32,
}

impl Need {
    /// Returns the whole image at full size.
    pub fn everything() -> Need {
        Need { columns: 0..u32::MAX, rows: 0..u32::MAX, factor: 1 }
    }

    /// Returns what these crops of an image need that are resized to `size` x `size` pixels.
    /// `whole` is the image's width and height. Large images may be reduced as far as each crop
    /// keeps at least `size` pixels in both directions.
    pub fn of(whole: (u32, u32), crops: &[Crop], size: u32) -> Need {
        let span = |first: fn(&Crop) -> u32, length: fn(&Crop) -> u32| {
            let start = crops.iter().map(first).min().unwrap_or(0);
            start..crops.iter().map(|crop| first(crop).saturating_add(length(crop))).max().unwrap_or(0)
        };
        let large = whole.0 as u64 * whole.1 as u64 >= MIN_REDUCED_PIXELS;
        let enough = |factor: &u32| large && crops.iter().all(|crop| crop.width.min(crop.height) / factor >= size);
        Need {
            columns: span(|crop| crop.left, |crop| crop.width),
            rows: span(|crop| crop.top, |crop| crop.height),
            factor: [8, 4, 2].into_iter().find(enough).unwrap_or(1),
        }
    }
}

/// Returns a crop of the full-size image in the coordinates of an image reduced by `factor`,
/// rounded down to whole pixels.
///
/// # Panics
/// Panics if `factor` is 0.
pub fn reduced(crop: Crop, factor: u32) -> Crop {
    let side = |pixels: u32| (pixels / factor).max(1);
    Crop { top: crop.top / factor, left: crop.left / factor, height: side(crop.height), width: side(crop.width) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_are_reduced_as_far_as_all_crops_allow() {
        let crop = |left, top, width, height| Crop { top, left, height, width };
        let need = Need::of((4000, 3000), &[crop(100, 50, 1000, 1900), crop(40, 90, 900, 800)], 224);
        assert_eq!(need, Need { columns: 40..1100, rows: 50..1950, factor: 2 });
        let factor = |side, size| Need::of((4000, 3000), &[crop(0, 0, side, side + 1)], size).factor;
        assert_eq!([447, 448, 895, 896, 1791, 1792, 3000].map(|side| factor(side, 224)), [1, 2, 2, 4, 4, 8, 8]);
        assert_eq!(Need::of((2000, 1999), &[crop(0, 0, 1900, 1900)], 224).factor, 1);
        assert_eq!(Need::of((2000, 2000), &[crop(0, 0, 1900, 1900)], 224).factor, 8);
    }

    #[test]
    fn reduced_crops_are_inside_reduced_images() {
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
