//! A view during augmentation: planes of bytes, whose loops compile to SIMD code, unlike
//! interleaved pixels.

use crate::decode::Rgb;

/// An image as 8-bit planes of red, green and blue.
pub struct Planes {
    /// Width in pixels.
    pub width: usize,
    /// Pixels [3, height, width].
    pub pixels: Vec<u8>,
}

impl Planes {
    /// Returns the planes of an image.
    pub fn of(image: &Rgb) -> Planes {
        let mut planes = Planes { width: image.width as usize, pixels: vec![0; image.pixels.len()] };
        let [r, g, b] = planes.channels();
        with_simd(
            #[inline(always)]
            || {
                for (((r, g), b), pixel) in r.iter_mut().zip(g).zip(b).zip(image.pixels.chunks_exact(3)) {
                    (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]);
                }
            },
        );
        planes
    }

    /// Returns the height in pixels.
    pub fn height(&self) -> usize {
        self.pixels.len() / 3 / self.width.max(1)
    }

    /// Returns the planes of red, green and blue.
    #[inline(always)]
    pub fn channels(&mut self) -> [&mut [u8]; 3] {
        let plane = self.pixels.len() / 3;
        let (r, rest) = self.pixels.split_at_mut(plane);
        let (g, b) = rest.split_at_mut(plane);
        [r, g, b]
    }

    /// Writes the values scaled to 0..1 to `out` [3, height, width].
    pub fn to_floats(&self, out: &mut [f32]) {
        with_simd(
            #[inline(always)]
            || out.iter_mut().zip(&self.pixels).for_each(|(o, p)| *o = scaled(*p)),
        );
    }
}

/// Returns p / 255 by a product and a correction, which is faster than a division and has the same
/// result for every byte.
#[inline(always)]
fn scaled(p: u8) -> f32 {
    const SCALE: f32 = 1.0 / 255.0;
    let near = p as f32 * SCALE;
    near.mul_add(-255.0, p as f32).mul_add(SCALE, near)
}

/// Clamps a number to 0..255 and truncates it to a byte; NaN gives 0.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "clamp keeps NaN")]
pub(crate) fn byte(x: f32) -> u8 {
    let cut = x.max(0.0).min(255.0);
    // SAFETY: the value is finite and from 0 to 255.
    unsafe { cut.to_int_unchecked::<i32>() as u8 }
}

/// Clamps and truncates a number as `byte` does, from 64 bits.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "clamp keeps NaN")]
pub(crate) fn whole(x: f64) -> i32 {
    let cut = x.max(0.0).min(255.0);
    // SAFETY: the value is finite and from 0 to 255.
    unsafe { cut.to_int_unchecked() }
}

/// Runs `work` compiled for the widest SIMD instructions of the processor. `work` and the functions
/// that it calls must be `#[inline(always)]`. Results do not depend on the SIMD width, as no sum is
/// reordered.
#[inline(always)]
pub(crate) fn with_simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_divided_by_255() {
        for p in 0..=255 {
            assert_eq!(scaled(p), p as f32 / 255.0, "{p}");
        }
    }

    #[test]
    fn numbers_are_clamped_and_truncated_to_bytes() {
        for (x, expected) in
            [(-1.0, 0), (0.0, 0), (0.99, 0), (254.5, 254), (255.0, 255), (1e30, 255), (f32::NAN, 0), (f32::NEG_INFINITY, 0)]
        {
            assert_eq!(byte(x), expected, "{x}");
        }
    }
}
