//! timm's random erasing: a box of a normalized view is overwritten.

use crate::random::distributions::{fill_normal, normal};
use crate::random::{below, between, unit};
use rand_chacha::ChaCha8Rng;

/// The values that overwrite a box, in units of normalized values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eraser {
    /// A standard normal number per value; timm's `pixel`.
    Noise,
    /// A standard normal number per channel; timm's `rand`.
    Color,
    /// Zeros, which are the mean color; timm's `const`.
    Zero,
}

/// Random erasing's settings. The default is that of fine-tuning recipes with timm: noise, with
/// probability 0.25.
#[derive(Clone, PartialEq, Debug)]
pub struct RandomErasing {
    /// Probability that a view is erased.
    pub probability: f32,
    /// Smallest and largest fraction of the view's area.
    pub area: (f32, f32),
    /// Smallest height / width of the box, above 0; the largest is its inverse.
    pub aspect: f32,
    /// Values of the erased box.
    pub eraser: Eraser,
}

impl Default for RandomErasing {
    fn default() -> RandomErasing {
        RandomErasing { probability: 0.25, area: (0.02, 1.0 / 3.0), aspect: 0.3, eraser: Eraser::Noise }
    }
}

/// A box in whole pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Area {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl RandomErasing {
    /// Erases a box of a normalized view [3, size, size], or nothing.
    pub fn apply(&self, view: &mut [f32], size: usize, rng: &mut ChaCha8Rng) {
        let Some(area) = self.draw(size, rng) else { return };
        for plane in view.chunks_exact_mut(size * size) {
            let color = if self.eraser == Eraser::Color { normal(rng) } else { 0.0 };
            for row in plane.chunks_exact_mut(size).skip(area.top).take(area.height) {
                let erased = &mut row[area.left..][..area.width];
                match self.eraser {
                    Eraser::Noise => fill_normal(erased, rng),
                    Eraser::Color | Eraser::Zero => erased.fill(color),
                }
            }
        }
    }

    /// Draws a box smaller than the view: an area and a ratio uniform in its logarithm, with ten
    /// attempts. Returns `None` if nothing is erased.
    fn draw(&self, size: usize, rng: &mut ChaCha8Rng) -> Option<Area> {
        if unit(rng) >= self.probability {
            return None;
        }
        let widest = -self.aspect.ln();
        for _ in 0..10 {
            let target = (size * size) as f32 * between(rng, self.area.0, self.area.1);
            let ratio = between(rng, -widest, widest).exp();
            let (height, width) = ((target * ratio).sqrt().round() as usize, (target / ratio).sqrt().round() as usize);
            if height < size && width < size {
                let (top, left) = (below(rng, size - height + 1), below(rng, size - width + 1));
                return Some(Area { top, left, height, width });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, keyed};

    /// Statistics of 400000 draws of timm's RandomErasing for 224 pixels: 0.2510 of the views are
    /// erased (with probability 0.25), the fraction of the area has mean 0.1759, std 0.0901 and
    /// deciles 0.0514 and 0.3007, the logarithm of the ratio is within 1.23 with mean 0 and std
    /// 0.6927, and the first row and column are 64.2 on average.
    #[test]
    fn boxes_are_drawn_as_by_timm() {
        let erasing = RandomErasing::default();
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        let draws = 200_000;
        let boxes: Vec<Area> = (0..draws).filter_map(|_| erasing.draw(224, &mut rng)).collect();
        assert!(boxes.iter().all(|b| b.top + b.height <= 224 && b.left + b.width <= 224));
        let moments = |of: &dyn Fn(&Area) -> f64| {
            let mean = boxes.iter().map(of).sum::<f64>() / boxes.len() as f64;
            (mean, (boxes.iter().map(|b| (of(b) - mean).powi(2)).sum::<f64>() / boxes.len() as f64).sqrt())
        };
        let near = |measured: f64, expected: f64, by: f64| assert!((measured - expected).abs() < by, "{measured}, expected {expected}");
        near(boxes.len() as f64 / draws as f64, 0.25, 0.004);
        let area = |b: &Area| (b.height * b.width) as f64 / (224.0 * 224.0);
        near(moments(&area).0, 0.1759, 0.0016);
        near(moments(&area).1, 0.0901, 0.0012);
        for (tenth, share) in [(0.0514, 0.1), (0.3007, 0.9)] {
            near(boxes.iter().filter(|b| area(b) < tenth).count() as f64 / boxes.len() as f64, share, 0.006);
        }
        let ratio = |b: &Area| (b.height as f64 / b.width as f64).ln();
        near(moments(&ratio).0, 0.0, 0.012);
        near(moments(&ratio).1, 0.6927, 0.008);
        assert!(boxes.iter().all(|b| ratio(b).abs() < 1.24));
        near(moments(&|b| b.top as f64).0, 64.2, 0.9);
        near(moments(&|b| b.left as f64).0, 64.2, 0.9);
    }

    #[test]
    fn only_the_box_is_overwritten_with_the_chosen_values() {
        const SIZE: usize = 64;
        for eraser in [Eraser::Noise, Eraser::Color, Eraser::Zero] {
            let erasing = RandomErasing { probability: 1.0, area: (0.3, 0.3), eraser, ..RandomErasing::default() };
            let key = || keyed(3, Purpose::View(0), 0, 0);
            let area = erasing.draw(SIZE, &mut key()).unwrap();
            let mut view = vec![9.0; 3 * SIZE * SIZE];
            erasing.apply(&mut view, SIZE, &mut key());
            let inside = |i: usize| {
                let (x, y) = (i % SIZE, i / SIZE % SIZE);
                (area.top..area.top + area.height).contains(&y) && (area.left..area.left + area.width).contains(&x)
            };
            assert!(view.iter().enumerate().all(|(i, v)| inside(i) != (*v == 9.0)));
            let erased: Vec<f32> = view.into_iter().filter(|v| *v != 9.0).collect();
            let n = erased.len() as f32;
            assert!((n / (3 * SIZE * SIZE) as f32 - 0.3).abs() < 0.02);
            let channels: Vec<&[f32]> = erased.chunks(erased.len() / 3).collect();
            match eraser {
                Eraser::Zero => assert!(erased.iter().all(|v| *v == 0.0)),
                Eraser::Color => {
                    assert!(channels.iter().all(|c| c.iter().all(|v| *v == c[0])));
                    assert!(channels[0][0] != channels[1][0] && channels[1][0] != channels[2][0]);
                }
                Eraser::Noise => {
                    let mean = erased.iter().sum::<f32>() / n;
                    let variance = erased.iter().map(|v| v * v).sum::<f32>() / n;
                    assert!(mean.abs() < 0.06 && (variance - 1.0).abs() < 0.09, "{mean} {variance}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_erased_at_probability_0_or_if_no_box_fits() {
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        let never = RandomErasing { probability: 0.0, ..RandomErasing::default() };
        let too_large = RandomErasing { probability: 1.0, area: (1.0, 1.0), ..RandomErasing::default() };
        let no_ratio = RandomErasing { probability: 1.0, aspect: 0.0, ..RandomErasing::default() };
        for (erasing, size) in
            [(never, 16), (too_large, 16), (no_ratio, 16), (RandomErasing { probability: 1.0, ..RandomErasing::default() }, 0)]
        {
            let mut view = vec![9.0; 3 * size * size];
            erasing.apply(&mut view, size, &mut rng);
            assert!(view.iter().all(|v| *v == 9.0), "{erasing:?}");
        }
    }
}
