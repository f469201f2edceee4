//! Gaussian blur of a view's planes: separable, with repeated edges.

use crate::augment::planes::{Planes, byte, with_simd};

/// Number of pixels whose sums are kept in registers. With 32 the compiler keeps the sums in
/// memory, which is four times slower.
const BLOCK: usize = 16;

/// Blurs with a std of `sigma` pixels.
pub fn blur(image: &mut Planes, sigma: f32) {
    let weights = weights(sigma);
    let (width, radius) = (image.width, weights.len() / 2);
    if width == 0 || image.pixels.is_empty() {
        return;
    }
    // Rows are padded to whole blocks; results beyond the image are not used.
    let stride = width.next_multiple_of(BLOCK);
    let mut padded = vec![0.0; stride + 2 * radius];
    let mut across = vec![0.0; image.pixels.len() / width / 3 * stride];
    for plane in image.channels() {
        with_simd(
            #[inline(always)]
            || {
                for (row, out) in plane.chunks_exact(width).zip(across.chunks_exact_mut(stride)) {
                    fill(&mut padded, row, radius);
                    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                        let mut sums = [0.0f32; BLOCK];
                        for (k, w) in weights.iter().enumerate() {
                            let taps = &padded[block * BLOCK + k..][..BLOCK];
                            sums.iter_mut().zip(taps).for_each(|(s, p)| *s += w * p);
                        }
                        out.copy_from_slice(&sums);
                    }
                }
                let height = across.len() / stride;
                for (y, out) in plane.chunks_exact_mut(width).enumerate() {
                    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                        let mut sums = [0.5f32; BLOCK]; // rounds
                        for (k, w) in weights.iter().enumerate() {
                            let row = (y + k).saturating_sub(radius).min(height - 1);
                            let taps = &across[row * stride + block * BLOCK..][..BLOCK];
                            sums.iter_mut().zip(taps).for_each(|(s, v)| *s += w * v);
                        }
                        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = byte(*s));
                    }
                }
            },
        );
    }
}

/// Returns the weights of a Gaussian up to three std on each side, with a sum of 1.
fn weights(sigma: f32) -> Vec<f32> {
    let radius = (3.0 * sigma).ceil().max(1.0) as usize;
    let mut weights: Vec<f32> = (0..=2 * radius).map(|i| (-0.5 * ((i as f32 - radius as f32) / sigma).powi(2)).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= total);
    weights
}

/// Converts a row to f32, with `radius` copies of its first pixel before it and of its last after
/// it.
#[inline(always)]
fn fill(padded: &mut [f32], row: &[u8], radius: usize) {
    let (before, rest) = padded.split_at_mut(radius);
    let (inside, after) = rest.split_at_mut(row.len());
    before.fill(row[0] as f32);
    inside.iter_mut().zip(row).for_each(|(p, v)| *p = *v as f32);
    after.fill(row[row.len() - 1] as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Rgb;

    #[test]
    fn a_flat_image_stays_and_a_point_spreads_evenly() {
        let mut flat = Planes::of(&Rgb { width: 7, height: 5, pixels: vec![93; 105] });
        blur(&mut flat, 1.7);
        assert_eq!(flat.pixels, [93; 105]);
        let mut point = Planes::of(&Rgb { width: 9, height: 9, pixels: vec![0; 243] });
        point.pixels[4 * 9 + 4] = 255;
        blur(&mut point, 1.0);
        let red = |x: usize, y: usize| point.pixels[y * 9 + x];
        assert_eq!((red(3, 4), red(4, 3)), (red(5, 4), red(4, 5)));
        assert!(red(4, 4).abs_diff(41) <= 1); // 255 / (2 pi)
        assert!(point.pixels[81..].iter().all(|&v| v == 0));
    }
}
