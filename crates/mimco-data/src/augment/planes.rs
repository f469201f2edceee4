//! A view while it is augmented: planes of bytes, whose loops compile to vectors as interleaved pixels' do not.

use crate::Rgb;

/// Eight-bit planes of red, green and blue.
pub struct Planes {
    /// Pixels across.
    pub width: usize,
    /// [3, height, width]
    pub pixels: Vec<u8>,
}

impl Planes {
    /// An image's planes.
    pub fn of(image: &Rgb) -> Planes {
        let mut planes = Planes { width: image.width as usize, pixels: vec![0; image.pixels.len()] };
        let [r, g, b] = planes.channels();
        wide(
            #[inline(always)]
            || {
                for (((r, g), b), pixel) in r.iter_mut().zip(g).zip(b).zip(image.pixels.chunks_exact(3)) {
                    (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]);
                }
            },
        );
        planes
    }

    /// Pixels down.
    pub fn height(&self) -> usize {
        self.pixels.len() / 3 / self.width.max(1)
    }

    /// Red, green and blue.
    #[inline(always)]
    pub fn channels(&mut self) -> [&mut [u8]; 3] {
        let plane = self.pixels.len() / 3;
        let (r, rest) = self.pixels.split_at_mut(plane);
        let (g, b) = rest.split_at_mut(plane);
        [r, g, b]
    }

    /// As f32 in 0..1, into `out` [3, height, width].
    pub fn to_floats(&self, out: &mut [f32]) {
        wide(
            #[inline(always)]
            || out.iter_mut().zip(&self.pixels).for_each(|(o, p)| *o = share(*p)),
        );
    }
}

/// p / 255, by a product and a correction: a division takes longer, and this is its result for every byte.
#[inline(always)]
fn share(p: u8) -> f32 {
    const SCALE: f32 = 1.0 / 255.0;
    let near = p as f32 * SCALE;
    near.mul_add(-255.0, p as f32).mul_add(SCALE, near)
}

/// The byte of a number, cut to 0..255 and to its whole part; 0 of what is no number.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "clamp keeps NaN")]
pub fn byte(x: f32) -> u8 {
    let cut = x.max(0.0).min(255.0);
    // SAFETY: neither infinite nor NaN, and a byte's.
    unsafe { cut.to_int_unchecked::<i32>() as u8 }
}

/// As `byte`, of a number of 64 bits.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "clamp keeps NaN")]
pub fn whole(x: f64) -> i32 {
    let cut = x.max(0.0).min(255.0);
    // SAFETY: neither infinite nor NaN, and small.
    unsafe { cut.to_int_unchecked() }
}

/// Runs `work` compiled for the widest vectors that the machine has; it must be `#[inline(always)]`, and so must what it calls. The numbers are the
/// same whatever the vectors: nothing is added in another order.
#[inline(always)]
pub fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_divided_by_255() {
        for p in 0..=255 {
            assert_eq!(share(p), p as f32 / 255.0, "{p}");
        }
    }

    #[test]
    fn numbers_are_cut_to_bytes() {
        for (x, expected) in
            [(-1.0, 0), (0.0, 0), (0.99, 0), (254.5, 254), (255.0, 255), (1e30, 255), (f32::NAN, 0), (f32::NEG_INFINITY, 0)]
        {
            assert_eq!(byte(x), expected, "{x}");
        }
    }
}
