//! Color operations on a view's planes, computed as PIL and torchvision do, in loops over whole
//! planes that compile to SIMD code.

use crate::augment::planes::{Planes, byte, whole, with_simd};

/// Returns the luminance of PIL's conversion to "L" (ITU-R 601-2, 16-bit fixed point). All sums are
/// integers below 2^24, so f32 is exact.
#[inline(always)]
fn luminance(r: u8, g: u8, b: u8) -> u8 {
    byte((r as f32 * 19_595.0 + g as f32 * 38_470.0 + b as f32 * 7_471.0 + 32_768.0) * (1.0 / 65_536.0))
}

/// Returns from + factor · (to - from), clamped to 0..255.
#[inline(always)]
pub fn blend(from: f32, to: u8, factor: f32) -> u8 {
    byte(from + factor * (to as f32 - from))
}

/// Changes the brightness: blends with black.
pub fn brightness(image: &mut Planes, factor: f32) {
    with_simd(
        #[inline(always)]
        || image.pixels.iter_mut().for_each(|p| *p = blend(0.0, *p, factor)),
    );
}

/// Changes the contrast: blends with the mean luminance.
pub fn contrast(image: &mut Planes, factor: f32) {
    with_simd(
        #[inline(always)]
        || {
            let [r, g, b] = image.channels();
            let mut sum = 0u64;
            // Chunks whose sum fits 32 bits.
            for ((r, g), b) in r.chunks(4096).zip(g.chunks(4096)).zip(b.chunks(4096)) {
                let part: u32 = r.iter().zip(g).zip(b).map(|((r, g), b)| luminance(*r, *g, *b) as u32).sum();
                sum += part as u64;
            }
            let mean = (sum as f64 / r.len().max(1) as f64 + 0.5).floor() as f32;
            image.pixels.iter_mut().for_each(|p| *p = blend(mean, *p, factor));
        },
    );
}

/// Changes the saturation: blends with the grayscale image.
pub fn saturation(image: &mut Planes, factor: f32) {
    with_simd(
        #[inline(always)]
        || {
            let [r, g, b] = image.channels();
            for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
                let gray = luminance(*r, *g, *b) as f32;
                (*r, *g, *b) = (blend(gray, *r, factor), blend(gray, *g, factor), blend(gray, *b, factor));
            }
        },
    );
}

/// Shifts the hue by `shift` of the color circle (-0.5 to 0.5), through 8-bit HSV.
pub fn hue(image: &mut Planes, shift: f32) {
    let turn = (shift * 255.0) as i32 & 255; // wraps around
    with_simd(
        #[inline(always)]
        || {
            let [r, g, b] = image.channels();
            for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
                (*r, *g, *b) = shift_hue(*r, *g, *b, turn);
            }
        },
    );
}

/// Shifts the hue of a pixel, without branches so that the loop compiles to SIMD code.
#[inline(always)]
fn shift_hue(r: u8, g: u8, b: u8, turn: i32) -> (u8, u8, u8) {
    let (red, green, blue) = (r as f32, g as f32, b as f32);
    let (top, low) = (red.max(green).max(blue), red.min(green).min(blue));
    let gray = top == low;
    let range = if gray { 1.0 } else { top - low };
    let (from_r, from_g, from_b) = ((top - red) / range, (top - green) / range, (top - blue) / range);
    // f64 and f32 exactly where Pillow uses them: a hue of the next lower step changes a channel by
    // six.
    let second = (2.0 + from_r as f64 - from_b as f64) as f32;
    let third = (4.0 + from_g as f64 - from_r as f64) as f32;
    let sixths = if red == top { from_b - from_g } else { if green == top { second } else { third } };
    let circle = sixths as f64 / 6.0 + 1.0;
    let part = (if circle >= 1.0 { circle - 1.0 } else { circle }) as f32;
    let h = ((whole(part as f64 * 255.0) + turn) & 255) as f32;
    let s = whole((range / top.max(1.0)) as f64 * 255.0) as f32 / 255.0;

    let sixths = h * 6.0 / 255.0;
    let sector = byte(sixths) as i32;
    let part = sixths - sector as f32;
    let (p, q, t) = (rounded(top * (1.0 - s)), rounded(top * (1.0 - s * part)), rounded(top * (1.0 - s * (1.0 - part))));
    let v = byte(top);
    let (red, green, blue) = (pick(sector, [v, q, p, p, t, v]), pick(sector, [t, v, v, q, p, p]), pick(sector, [p, p, t, v, v, q]));
    if gray { (r, g, b) } else { (red, green, blue) }
}

/// Rounds a number from 0 to 255 to a byte.
#[inline(always)]
fn rounded(x: f32) -> u8 {
    byte(x + 0.5)
}

/// Returns the value of a sector of the color circle; a sector outside 0..6 is sector 0.
#[inline(always)]
fn pick(sector: i32, of: [u8; 6]) -> u8 {
    of.into_iter().enumerate().skip(1).fold(of[0], |value, (i, other)| if sector == i as i32 { other } else { value })
}

/// Sets all three channels to the luminance.
pub fn grayscale(image: &mut Planes) {
    with_simd(
        #[inline(always)]
        || {
            let [r, g, b] = image.channels();
            for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
                let gray = luminance(*r, *g, *b);
                (*r, *g, *b) = (gray, gray, gray);
            }
        },
    );
}

/// Inverts values of `threshold` and more.
pub fn solarize(image: &mut Planes, threshold: u8) {
    with_simd(
        #[inline(always)]
        || image.pixels.iter_mut().for_each(|p| *p = if *p >= threshold { 255 - *p } else { *p }),
    );
}

/// Mirrors the image horizontally.
pub fn flip(image: &mut Planes) {
    image.pixels.chunks_exact_mut(image.width.max(1)).for_each(<[u8]>::reverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Rgb;

    /// Values of Pillow 12 and torchvision 0.28's functional operations on one pixel.
    #[test]
    fn colors_are_pils() {
        let apply = |pixel: [u8; 3], f: &dyn Fn(&mut Planes)| {
            let mut image = Planes::of(&Rgb { width: 1, height: 1, pixels: pixel.to_vec() });
            f(&mut image);
            image.pixels
        };
        assert_eq!(apply([200, 100, 50], &|i| brightness(i, 1.3)), [255, 130, 65]);
        assert_eq!(apply([200, 100, 50], &|i| contrast(i, 0.5)), [162, 112, 87]);
        assert_eq!(apply([200, 100, 50], &|i| saturation(i, 0.5)), [162, 112, 87]);
        assert_eq!(apply([200, 100, 50], &grayscale), [124, 124, 124]);
        assert_eq!(apply([200, 100, 50], &|i| solarize(i, 128)), [55, 100, 50]);
    }

    #[test]
    fn luminance_is_the_fixed_point_one_for_every_color() {
        for (r, g) in (0..=255).flat_map(|r| (0..=255).map(move |g| (r, g))) {
            for b in (0..=255).step_by(5) {
                let fixed = (r as u32 * 19_595 + g as u32 * 38_470 + b as u32 * 7_471 + 0x8000) >> 16;
                assert_eq!(luminance(r, g, b) as u32, fixed, "{r} {g} {b}");
            }
        }
    }

    /// Converts colors to 8-bit HSV and back, with branches and Pillow's mixture of f32 and f64.
    #[test]
    fn hues_are_pillows_for_every_color() {
        let plain = |pixel: [u8; 3], turn: u8| {
            let [r, g, b] = pixel.map(f32::from);
            let (top, low) = (r.max(g).max(b), r.min(g).min(b));
            if top == low {
                return pixel;
            }
            let range = top - low;
            let (from_r, from_g, from_b) = ((top - r) / range, (top - g) / range, (top - b) / range);
            let sixths = if r == top {
                from_b - from_g
            } else if g == top {
                (2.0 + from_r as f64 - from_b as f64) as f32
            } else {
                (4.0 + from_g as f64 - from_r as f64) as f32
            };
            let h = (((sixths as f64 / 6.0 + 1.0).fract() as f32) as f64 * 255.0) as u8;
            let (h, s) = (h.wrapping_add(turn) as f32 * 6.0 / 255.0, ((range / top) as f64 * 255.0) as u8 as f32 / 255.0);
            let (part, round) = (h.fract(), |x: f32| x.round().clamp(0.0, 255.0) as u8);
            let (p, q, t) = (round(top * (1.0 - s)), round(top * (1.0 - s * part)), round(top * (1.0 - s * (1.0 - part))));
            let v = top as u8;
            [[v, t, p], [q, v, p], [p, v, t], [p, q, v], [t, p, v], [v, p, q]][h.floor() as usize % 6]
        };
        for (shift, turn) in [(0.0, 0), (-0.1, 231), (0.07, 17), (0.5, 127)] {
            for r in (0..=255u8).step_by(3) {
                let colors: Vec<[u8; 3]> = (0..=255).flat_map(|g| (0..=255).step_by(5).map(move |b| [r, g, b])).collect();
                let mut image = Planes::of(&Rgb { width: colors.len() as u32, height: 1, pixels: colors.concat() });
                hue(&mut image, shift);
                let [red, green, blue] = image.channels();
                for (i, color) in colors.iter().enumerate() {
                    assert_eq!([red[i], green[i], blue[i]], plain(*color, turn), "{color:?} by {turn}");
                }
            }
        }
    }

    #[test]
    fn a_flip_twice_is_nothing() {
        let mut image = Planes::of(&Rgb { width: 3, height: 1, pixels: vec![1, 2, 3, 4, 5, 6, 7, 8, 9] });
        flip(&mut image);
        assert_eq!(image.pixels, [7, 4, 1, 8, 5, 2, 9, 6, 3]);
        flip(&mut image);
        assert_eq!(image.pixels, [1, 4, 7, 2, 5, 8, 3, 6, 9]);
    }
}
