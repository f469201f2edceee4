//! Operations on the histograms and values of a view's planes, computed as PIL's ImageOps and
//! ImageEnhance do.

use crate::augment::color::blend;
use crate::augment::planes::{Planes, with_simd};

/// Stretches each channel so that its lowest value is 0 and its highest is 255.
pub fn autocontrast(image: &mut Planes) {
    for plane in image.channels() {
        let (low, high) = with_simd(
            #[inline(always)]
            || plane.iter().fold((255u8, 0u8), |(low, high), p| (low.min(*p), high.max(*p))),
        );
        if high > low {
            let scale = 255.0 / (high - low) as f64;
            let offset = -(low as f64) * scale;
            map(plane, |value| (value as f64 * scale + offset) as u8); // truncated to a byte
        }
    }
}

/// Equalizes each channel's histogram.
pub fn equalize(image: &mut Planes) {
    for plane in image.channels() {
        let counts = counts(plane);
        let last = counts.iter().rev().find(|n| **n > 0).map_or(0, |n| *n);
        let step = (plane.len() - last) / 255;
        if step > 0 {
            let mut below = step / 2;
            let levels = counts.map(|count| {
                let level = below / step;
                below += count;
                level.min(255) as u8
            });
            map(plane, |value| levels[value as usize]);
        }
    }
}

/// Inverts every value.
pub fn invert(image: &mut Planes) {
    with_simd(
        #[inline(always)]
        || image.pixels.iter_mut().for_each(|p| *p = 255 - *p),
    );
}

/// Keeps the highest `bits` bits of every value. Zero bits give a black image, as in Pillow before
/// version 13.
pub fn posterize(image: &mut Planes, bits: u32) {
    let mask = !255u8.checked_shr(bits).unwrap_or(0);
    with_simd(
        #[inline(always)]
        || image.pixels.iter_mut().for_each(|p| *p &= mask),
    );
}

/// Adds `add` to values below 128, to at most 255.
pub fn solarize_add(image: &mut Planes, add: u8) {
    with_simd(
        #[inline(always)]
        || image.pixels.iter_mut().for_each(|p| *p = if *p < 128 { p.saturating_add(add) } else { *p }),
    );
}

/// Changes the sharpness: blends with a smoothed image. Pixels at the edges stay.
pub fn sharpness(image: &mut Planes, factor: f32) {
    let width = image.width;
    if width < 3 {
        return;
    }
    let mut before = Vec::new();
    for plane in image.channels() {
        before.clear();
        before.extend_from_slice(plane);
        with_simd(
            #[inline(always)]
            || {
                for (three, out) in before.windows(3 * width).step_by(width).zip(plane.chunks_exact_mut(width).skip(1)) {
                    let (above, rest) = three.split_at(width);
                    let (here, below) = rest.split_at(width);
                    sharpen_row(above, here, below, out, factor);
                }
            },
        );
    }
}

#[inline(always)]
fn sharpen_row(above: &[u8], here: &[u8], below: &[u8], out: &mut [u8], factor: f32) {
    let inside = out.len() - 2;
    // A kernel of ones with a center of 5.
    let three = |row: &[u8], x: usize| row[x] as u16 + row[x + 1] as u16 + row[x + 2] as u16;
    let (above, below, here) = (&above[..inside + 2], &below[..inside + 2], &here[..inside + 2]);
    for (x, out) in out[1..=inside].iter_mut().enumerate() {
        let sum = three(above, x) + three(here, x) + three(below, x) + 4 * here[x + 1] as u16;
        let smooth = (2 * sum + 13) / 26; // divided by 13 and rounded; there are no ties
        *out = blend(smooth as f32, here[x + 1], factor);
    }
}

/// Returns the histogram of a plane.
fn counts(plane: &[u8]) -> [usize; 256] {
    // Four tables, as increments of equal neighbors in one table would wait for each other.
    let mut tables = [[0u32; 256]; 4];
    for pixels in plane.chunks(4) {
        tables.iter_mut().zip(pixels).for_each(|(table, p)| table[*p as usize] += 1);
    }
    std::array::from_fn(|value| tables.iter().map(|table| table[value] as usize).sum())
}

/// Applies a function to every value, by a lookup table.
fn map(plane: &mut [u8], function: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|value| function(value as u8));
    plane.iter_mut().for_each(|p| *p = table[*p as usize]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planes(width: usize, pixels: Vec<u8>) -> Planes {
        Planes { width, pixels }
    }

    /// Planes of one value and empty planes have nothing to stretch.
    #[test]
    fn flat_and_empty_planes_stay() {
        for operation in [autocontrast, equalize, |i: &mut Planes| sharpness(i, 1.9)] {
            let mut flat = planes(40, vec![93; 3 * 1600]);
            operation(&mut flat);
            assert_eq!(flat.pixels, vec![93; 3 * 1600]);
            let mut empty = planes(0, Vec::new());
            operation(&mut empty);
            assert!(empty.pixels.is_empty());
        }
    }

    /// Values of Pillow 13's ImageOps.equalize: 600 pixels of 10, 500 of 20, 12 of 30; the last
    /// level would be 278.
    #[test]
    fn levels_of_equalized_planes_are_clamped_to_255() {
        let pixels: Vec<u8> = [vec![10; 600], vec![20; 500], vec![30; 12]].concat();
        let mut image = planes(1112, pixels.repeat(3));
        equalize(&mut image);
        assert_eq!((image.pixels[0], image.pixels[600], image.pixels[1111]), (0, 150, 255));
    }

    #[test]
    fn single_values_are_mapped() {
        let apply = |operation: &dyn Fn(&mut Planes)| {
            let mut image = planes(4, [0, 29, 127, 128].repeat(3));
            operation(&mut image);
            image.pixels[..4].to_vec()
        };
        assert_eq!(apply(&invert), [255, 226, 128, 127]);
        assert_eq!(apply(&|i| posterize(i, 8)), [0, 29, 127, 128]);
        assert_eq!(apply(&|i| posterize(i, 4)), [0, 16, 112, 128]);
        assert_eq!(apply(&|i| posterize(i, 1)), [0, 0, 0, 128]);
        assert_eq!(apply(&|i| posterize(i, 0)), [0, 0, 0, 0]);
        assert_eq!(apply(&|i| solarize_add(i, 110)), [110, 139, 237, 128]);
        assert_eq!(apply(&|i| solarize_add(i, 128)), [128, 157, 255, 128]);
    }

    /// A point of 130 on black: 5/13 of it (50) remains in the center, 1/13 (10) around it. A
    /// sharpness of 1.5 gives 130 + 0.5 (130 - 50) in the center.
    #[test]
    fn a_point_is_smoothed_and_sharpened() {
        let mut pixels = vec![0; 75];
        pixels[12] = 130;
        let mut image = planes(5, pixels.clone());
        sharpness(&mut image, 0.0);
        assert_eq!(image.pixels[5..20], [0, 10, 10, 10, 0, 0, 10, 50, 10, 0, 0, 10, 10, 10, 0]);
        let mut image = planes(5, pixels);
        sharpness(&mut image, 1.5);
        assert_eq!(image.pixels[10..15], [0, 0, 170, 0, 0]);
    }
}
