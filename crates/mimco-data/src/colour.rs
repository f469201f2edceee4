//! Colour operations on eight-bit RGB, each as PIL and torchvision compute it.

use crate::Rgb;

/// Luminance as PIL's conversion to "L" has it (ITU-R 601-2, 16-bit fixed point).
fn luminance(pixel: &[u8]) -> u8 {
    ((pixel[0] as u32 * 19_595 + pixel[1] as u32 * 38_470 + pixel[2] as u32 * 7_471 + 0x8000) >> 16) as u8
}

/// from + factor (to - from), cut to 0..255.
fn blend(from: f32, to: u8, factor: f32) -> u8 {
    (from + factor * (to as f32 - from)).clamp(0.0, 255.0) as u8
}

/// Brightness: blended with black.
pub fn brightness(image: &mut Rgb, factor: f32) {
    let table: Vec<u8> = (0..=255).map(|v| blend(0.0, v, factor)).collect();
    image.pixels.iter_mut().for_each(|p| *p = table[*p as usize]);
}

/// Contrast: blended with the mean luminance.
pub fn contrast(image: &mut Rgb, factor: f32) {
    let sum: u64 = image.pixels.chunks_exact(3).map(|p| luminance(p) as u64).sum();
    let mean = (sum as f64 / (image.pixels.len() / 3).max(1) as f64 + 0.5).floor() as f32;
    let table: Vec<u8> = (0..=255).map(|v| blend(mean, v, factor)).collect();
    image.pixels.iter_mut().for_each(|p| *p = table[*p as usize]);
}

/// Saturation: blended with the grey image.
pub fn saturation(image: &mut Rgb, factor: f32) {
    for pixel in image.pixels.chunks_exact_mut(3) {
        let grey = luminance(pixel) as f32;
        pixel.iter_mut().for_each(|p| *p = blend(grey, *p, factor));
    }
}

/// Hue: turned by `shift` of the circle (-0.5 to 0.5), through eight-bit HSV.
pub fn hue(image: &mut Rgb, shift: f32) {
    let turn = (shift * 255.0) as i32 as u8; // wraps around, as the circle does
    for pixel in image.pixels.chunks_exact_mut(3) {
        let (r, g, b) = (pixel[0] as f32, pixel[1] as f32, pixel[2] as f32);
        let (top, low) = (r.max(g).max(b), r.min(g).min(b));
        if top == low {
            continue;
        }
        let range = top - low;
        let (from_r, from_g, from_b) = ((top - r) / range, (top - g) / range, (top - b) / range);
        // In f64 and f32 just where Pillow has them: a hue cut to the next lower of its 256 steps moves a channel by six.
        let sixths = if r == top {
            from_b - from_g
        } else if g == top {
            (2.0 + from_r as f64 - from_b as f64) as f32
        } else {
            (4.0 + from_g as f64 - from_r as f64) as f32
        };
        let h = (((sixths as f64 / 6.0 + 1.0).fract() as f32) as f64 * 255.0) as u8;
        let s = ((range / top) as f64 * 255.0) as u8;
        pixel.copy_from_slice(&rgb_of(h.wrapping_add(turn), s, top));
    }
}

fn rgb_of(h: u8, s: u8, v: f32) -> [u8; 3] {
    let sixths = h as f32 * 6.0 / 255.0;
    let (sector, part, s) = (sixths.floor(), sixths.fract(), s as f32 / 255.0);
    let round = |x: f32| x.round().clamp(0.0, 255.0) as u8;
    let (p, q, t) = (round(v * (1.0 - s)), round(v * (1.0 - s * part)), round(v * (1.0 - s * (1.0 - part))));
    let v = v as u8;
    match sector as u32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Grey in all three channels.
pub fn grey(image: &mut Rgb) {
    image.pixels.chunks_exact_mut(3).for_each(|p| p.fill(luminance(p)));
}

/// Values of `threshold` and more are inverted.
pub fn solarize(image: &mut Rgb, threshold: u8) {
    image.pixels.iter_mut().filter(|p| **p >= threshold).for_each(|p| *p = 255 - *p);
}

/// Mirrored left to right.
pub fn flip(image: &mut Rgb) {
    let width = image.width as usize;
    for row in image.pixels.chunks_exact_mut(width * 3) {
        for x in 0..width / 2 {
            for c in 0..3 {
                row.swap(x * 3 + c, (width - 1 - x) * 3 + c);
            }
        }
    }
}

/// Gaussian blur of deviation `sigma` in pixels, separable, edges repeated.
pub fn blur(image: &mut Rgb, sigma: f32) {
    let radius = (3.0 * sigma).ceil().max(1.0) as usize;
    let mut weights: Vec<f32> = (0..=2 * radius).map(|i| (-0.5 * ((i as f32 - radius as f32) / sigma).powi(2)).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= total);
    let (width, height) = (image.width as usize, image.height as usize);
    let stride = width * 3;

    // Across, each row with its edges repeated.
    let mut padded = vec![0.0f32; stride + 6 * radius];
    let mut across = vec![0.0f32; stride * height];
    for (row, out) in image.pixels.chunks_exact(stride).zip(across.chunks_exact_mut(stride)) {
        for (i, p) in padded.iter_mut().enumerate() {
            let x = (i / 3).saturating_sub(radius).min(width - 1);
            *p = row[x * 3 + i % 3] as f32;
        }
        for (k, w) in weights.iter().enumerate() {
            out.iter_mut().zip(&padded[3 * k..]).for_each(|(o, p)| *o += w * p);
        }
    }
    // Down.
    let mut sum = vec![0.0f32; stride];
    for (y, out) in image.pixels.chunks_exact_mut(stride).enumerate() {
        sum.fill(0.5); // rounds
        for (k, w) in weights.iter().enumerate() {
            let row = &across[(y + k).saturating_sub(radius).min(height - 1) * stride..][..stride];
            sum.iter_mut().zip(row).for_each(|(s, v)| *s += w * v);
        }
        out.iter_mut().zip(&sum).for_each(|(o, s)| *o = *s as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(pixel: [u8; 3]) -> Rgb {
        Rgb { width: 1, height: 1, pixels: pixel.to_vec() }
    }

    /// Values by Pillow 12 and torchvision 0.28's functional operations on one pixel.
    #[test]
    fn colours_are_pils() {
        let apply = |pixel, f: &dyn Fn(&mut Rgb)| {
            let mut image = one(pixel);
            f(&mut image);
            image.pixels
        };
        assert_eq!(apply([200, 100, 50], &|i| brightness(i, 1.3)), [255, 130, 65]);
        assert_eq!(apply([200, 100, 50], &|i| contrast(i, 0.5)), [162, 112, 87]);
        assert_eq!(apply([200, 100, 50], &|i| saturation(i, 0.5)), [162, 112, 87]);
        assert_eq!(apply([200, 100, 50], &grey), [124, 124, 124]);
        assert_eq!(apply([200, 100, 50], &|i| solarize(i, 128)), [55, 100, 50]);
    }

    #[test]
    fn blur_keeps_a_flat_image_and_spreads_a_point_evenly() {
        let mut flat = Rgb { width: 7, height: 5, pixels: vec![93; 105] };
        blur(&mut flat, 1.7);
        assert_eq!(flat.pixels, [93; 105]);
        let mut point = Rgb { width: 9, height: 9, pixels: vec![0; 243] };
        point.pixels[(4 * 9 + 4) * 3] = 255;
        blur(&mut point, 1.0);
        let red = |x: usize, y: usize| point.pixels[(y * 9 + x) * 3];
        assert_eq!((red(3, 4), red(4, 3)), (red(5, 4), red(4, 5)));
        assert!(red(4, 4).abs_diff(41) <= 1); // 255 / (2 pi)
        assert!(point.pixels.iter().skip(1).step_by(3).all(|&g| g == 0));
    }

    #[test]
    fn a_flip_twice_is_nothing() {
        let mut image = Rgb { width: 3, height: 1, pixels: vec![1, 2, 3, 4, 5, 6, 7, 8, 9] };
        flip(&mut image);
        assert_eq!(image.pixels, [7, 8, 9, 4, 5, 6, 1, 2, 3]);
    }
}
