//! timm's RandAugment: a few operations are drawn for each view, with a slightly varying magnitude.

use crate::augment::planes::Planes;
use crate::augment::resize::Filter;
use crate::augment::{affine, color, histogram};
use crate::random::distributions::normal;
use crate::random::{below, unit};
use rand_chacha::ChaCha8Rng;

/// RandAugment's settings. Operations are drawn from fifteen, uniformly and with replacement. The
/// default is timm's `rand-m9-mstd0.5-inc1`.
#[derive(Clone, PartialEq, Debug)]
pub struct RandAugment {
    /// Number of operations drawn for a view.
    pub layers: usize,
    /// Mean magnitude, from 0 to 10.
    pub magnitude: f32,
    /// Std of the magnitude, which is clamped to 0..10.
    pub magnitude_std: f32,
    /// Probability that a drawn operation is applied.
    pub probability: f32,
    /// Color (RGB) of pixels that geometric operations bring in from outside the view.
    pub fill: [u8; 3],
    /// Interpolation of geometric operations.
    pub filter: Filter,
}

impl Default for RandAugment {
    /// Returns the settings of timm's `create_transform` with `rand-m9-mstd0.5-inc1`,
    /// `interpolation='bicubic'` and ImageNet's mean, which is the fill color.
    fn default() -> RandAugment {
        RandAugment { layers: 2, magnitude: 9.0, magnitude_std: 0.5, probability: 0.5, fill: [124, 116, 104], filter: Filter::Bicubic }
    }
}

impl RandAugment {
    /// Applies random operations to a view.
    pub fn apply(&self, view: &mut Planes, rng: &mut ChaCha8Rng) {
        for _ in 0..self.layers {
            if let Some(operation) = self.draw(rng) {
                operation.apply(view, self.filter, self.fill);
            }
        }
    }

    /// Draws an operation; returns `None` if it is not applied.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Option<Operation> {
        let make = OPERATIONS[below(rng, OPERATIONS.len())];
        if unit(rng) >= self.probability {
            return None;
        }
        let magnitude = self.magnitude + self.magnitude_std * normal(rng);
        let sign = if unit(rng) < 0.5 { 1.0 } else { -1.0 };
        Some(make(magnitude.clamp(0.0, 10.0) as f64 / 10.0, sign))
    }
}

/// An operation on a view.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Operation {
    AutoContrast,
    Equalize,
    Invert,
    /// Degrees, counterclockwise.
    Rotate(f64),
    /// Number of bits kept.
    Posterize(u32),
    /// Lowest value that is inverted; 256 inverts none.
    Solarize(u32),
    /// Added to values below 128.
    SolarizeAdd(u8),
    /// A factor; 1 changes nothing. The next three likewise.
    Saturation(f32),
    Contrast(f32),
    Brightness(f32),
    Sharpness(f32),
    /// Horizontal pixels per vertical pixel.
    ShearX(f64),
    /// Vertical pixels per horizontal pixel.
    ShearY(f64),
    /// Fraction of the width.
    TranslateX(f64),
    /// Fraction of the height.
    TranslateY(f64),
}

/// Constructors of the operations from a strength (0 to 1) and a sign (1 or -1), which some ignore.
/// The effect of all grows with the strength.
pub(crate) const OPERATIONS: [fn(f64, f64) -> Operation; 15] = [
    |_, _| Operation::AutoContrast,
    |_, _| Operation::Equalize,
    |_, _| Operation::Invert,
    |strength, sign| Operation::Rotate(strength * 30.0 * sign),
    |strength, _| Operation::Posterize(4 - (strength * 4.0) as u32),
    |strength, _| Operation::Solarize(256 - (strength * 256.0) as u32),
    |strength, _| Operation::SolarizeAdd((strength * 110.0) as u8),
    |strength, sign| Operation::Saturation(factor(strength * sign)),
    |strength, sign| Operation::Contrast(factor(strength * sign)),
    |strength, sign| Operation::Brightness(factor(strength * sign)),
    |strength, sign| Operation::Sharpness(factor(strength * sign)),
    |strength, sign| Operation::ShearX(strength * 0.3 * sign),
    |strength, sign| Operation::ShearY(strength * 0.3 * sign),
    |strength, sign| Operation::TranslateX(strength * 0.45 * sign),
    |strength, sign| Operation::TranslateY(strength * 0.45 * sign),
];

/// Returns a factor from 0.1 to 1.9.
fn factor(strength: f64) -> f32 {
    (1.0 + strength * 0.9) as f32
}

impl Operation {
    /// Applies the operation to a view.
    pub(crate) fn apply(self, view: &mut Planes, filter: Filter, fill: [u8; 3]) {
        let transform = |view: &mut Planes, matrix| affine::transform(view, matrix, filter, fill);
        match self {
            Operation::AutoContrast => histogram::autocontrast(view),
            Operation::Equalize => histogram::equalize(view),
            Operation::Invert => histogram::invert(view),
            Operation::Rotate(degrees) => affine::rotate(view, degrees, filter, fill),
            Operation::Posterize(bits) => histogram::posterize(view, bits),
            Operation::Solarize(threshold) => {
                if let Ok(threshold) = u8::try_from(threshold) {
                    color::solarize(view, threshold);
                }
            }
            Operation::SolarizeAdd(add) => histogram::solarize_add(view, add),
            Operation::Saturation(factor) => color::saturation(view, factor),
            Operation::Contrast(factor) => color::contrast(view, factor),
            Operation::Brightness(factor) => color::brightness(view, factor),
            Operation::Sharpness(factor) => histogram::sharpness(view, factor),
            Operation::ShearX(factor) => transform(view, [1.0, factor, 0.0, 0.0, 1.0, 0.0]),
            Operation::ShearY(factor) => transform(view, [1.0, 0.0, 0.0, factor, 1.0, 0.0]),
            Operation::TranslateX(share) => transform(view, [1.0, 0.0, share * view.width as f64, 0.0, 1.0, 0.0]),
            Operation::TranslateY(share) => transform(view, [1.0, 0.0, 0.0, 0.0, 1.0, share * view.height() as f64]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, keyed};
    use std::collections::HashMap;

    /// Values of timm's LEVEL_TO_ARG of the increasing operations at magnitudes 2.3, 7.4, 9.97 and
    /// 10.
    #[test]
    fn strengths_are_timms() {
        use Operation::*;
        let at = |operation: usize, magnitude: f64| OPERATIONS[operation](magnitude / 10.0, 1.0);
        for (magnitude, degrees, bits, threshold, add, factor, shear, translation) in [
            (2.3, 6.9, 4, 198, 25, 1.207, 0.069, 0.1035),
            (7.4, 22.2, 2, 67, 81, 1.666, 0.222, 0.333),
            (9.97, 29.91, 1, 1, 109, 1.8973, 0.2991, 0.44865),
            (10.0, 30.0, 0, 0, 110, 1.9, 0.3, 0.45),
        ] {
            let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b} at {magnitude}");
            assert_eq!((at(4, magnitude), at(5, magnitude), at(6, magnitude)), (Posterize(bits), Solarize(threshold), SolarizeAdd(add)));
            for operation in [3, 7, 8, 9, 10, 11, 12, 13, 14] {
                match (at(operation, magnitude), OPERATIONS[operation](magnitude / 10.0, -1.0)) {
                    (Rotate(a), Rotate(b)) => [near(a, degrees), near(b, -degrees)],
                    (Saturation(a), Saturation(b))
                    | (Contrast(a), Contrast(b))
                    | (Brightness(a), Brightness(b))
                    | (Sharpness(a), Sharpness(b)) => [near(a as f64, factor), near(b as f64, 2.0 - factor)],
                    (ShearX(a), ShearX(b)) | (ShearY(a), ShearY(b)) => [near(a, shear), near(b, -shear)],
                    (TranslateX(a), TranslateX(b)) | (TranslateY(a), TranslateY(b)) => [near(a, translation), near(b, -translation)],
                    other => panic!("{other:?}"),
                };
            }
        }
    }

    /// Each of the fifteen operations has a thirtieth of the draws (timm's in 100000 views with two
    /// layers: 0.0660 to 0.0675), and both signs are equally frequent. Magnitudes are normal with 9
    /// and 0.5, clamped at 10: mean 8.9958, std 0.4899, 2.275 % at 10 (by scipy; timm's in a
    /// million draws: 8.9957, 0.4903, 2.253 %).
    #[test]
    fn operations_and_magnitudes_are_drawn_as_timm_does() {
        let augment = RandAugment::default();
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        let (mut counts, mut magnitudes, mut black) = (HashMap::new(), Vec::new(), 0);
        let draws = 150_000;
        for operation in (0..draws).filter_map(|_| augment.draw(&mut rng)) {
            *counts.entry(std::mem::discriminant(&operation)).or_insert(0) += 1;
            match operation {
                Operation::Rotate(degrees) => magnitudes.push(degrees / 3.0),
                Operation::ShearX(factor) | Operation::ShearY(factor) => magnitudes.push(factor / 0.03),
                Operation::TranslateX(share) | Operation::TranslateY(share) => magnitudes.push(share / 0.045),
                Operation::Posterize(0) => black += 1,
                _ => (),
            }
        }
        assert_eq!(counts.len(), 15);
        for (operation, count) in counts {
            assert!((4700..5300).contains(&count), "{operation:?}: {count} of {draws}, expected {}", draws / 30);
        }
        let n = magnitudes.len() as f64;
        let share = |of: &dyn Fn(f64) -> bool| magnitudes.iter().filter(|m| of(**m)).count() as f64 / n;
        assert!((share(&|m| m > 0.0) - 0.5).abs() < 0.013);
        assert!((share(&|m| m.abs() > 9.999_999) - 0.02275).abs() < 0.004);
        assert!((70..160).contains(&black), "{black} of about 5000 black, expected 114");
        let mean = magnitudes.iter().map(|m| m.abs()).sum::<f64>() / n;
        let std = (magnitudes.iter().map(|m| (m.abs() - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((mean - 8.9958).abs() < 0.013 && (std - 0.4899).abs() < 0.01, "{mean} {std}");
    }

    #[test]
    fn views_are_functions_of_their_key() {
        let augmented = |augment: &RandAugment, index| {
            let mut view = Planes { width: 32, pixels: (0..3072).map(|i| (i * i % 201 + 20) as u8).collect() };
            augment.apply(&mut view, &mut keyed(1, Purpose::View(0), 0, index));
            view.pixels
        };
        let (never, always) = (
            RandAugment { probability: 0.0, ..RandAugment::default() },
            RandAugment { probability: 1.0, layers: 3, ..RandAugment::default() },
        );
        let unchanged = augmented(&RandAugment { layers: 0, ..always.clone() }, 0);
        assert_eq!(augmented(&never, 0), unchanged);
        for index in 0..50 {
            assert_eq!(augmented(&always, index), augmented(&always, index));
            assert_ne!(augmented(&always, index), augmented(&always, index + 1));
        }
        // Two draws of probability 0.5 leave a quarter of the views unchanged (timm: 0.2493).
        let same = (0..2000).filter(|index| augmented(&RandAugment::default(), *index) == unchanged).count();
        assert!((430..570).contains(&same), "{same} of 2000 views unchanged");
    }
}
