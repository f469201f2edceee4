//! Mixup and CutMix of a batch, as timm's `Mixup` in its `batch` mode: image i is mixed with image
//! batch - 1 - i, all with the same lambda.

use crate::augment::planes::with_simd;
use crate::random::distributions::beta;
use crate::random::{below, unit};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Settings of mixup and CutMix. The default is that of fine-tuning recipes: mixup with 0.8 or
/// CutMix with 1.0, with equal probabilities.
#[derive(Clone, PartialEq, Debug)]
pub struct Mix {
    /// Probability that a batch is mixed.
    pub probability: f32,
    /// Fraction of mixed batches that use CutMix, if mixup is enabled too.
    pub cutmix_share: f32,
    /// Both parameters of mixup's Beta distribution; 0 disables mixup.
    pub mixup_alpha: f32,
    /// Both parameters of CutMix's Beta distribution; 0 disables CutMix.
    pub cutmix_alpha: f32,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { probability: 1.0, cutmix_share: 0.5, mixup_alpha: 0.8, cutmix_alpha: 1.0 }
    }
}

/// How a batch is mixed.
#[derive(Clone, PartialEq, Debug)]
pub enum Mixing {
    /// The batch remains unchanged.
    None,
    /// Each image becomes `lambda` · itself + (1 - `lambda`) · its partner.
    Mixup {
        /// Weight of the image itself, from 0 to 1.
        lambda: f32,
    },
    /// Each image gets its partner's pixels in a box.
    Cutmix {
        /// Rows of the box.
        rows: Range<usize>,
        /// Columns of the box.
        columns: Range<usize>,
        /// Fraction of the image outside the box.
        lambda: f32,
    },
}

impl Mixing {
    /// Returns the weight of an image's own label in its target, from 0 to 1.
    pub fn lambda(&self) -> f32 {
        match self {
            Mixing::None => 1.0,
            Mixing::Mixup { lambda } | Mixing::Cutmix { lambda, .. } => *lambda,
        }
    }
}

impl Mix {
    /// Draws how a batch of views of `size` x `size` pixels is mixed.
    pub fn draw(&self, size: usize, rng: &mut ChaCha8Rng) -> Mixing {
        let (mixup, cutmix) = (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0);
        if !(mixup || cutmix) || unit(rng) >= self.probability {
            return Mixing::None;
        }
        if cutmix && (!mixup || unit(rng) < self.cutmix_share) {
            let lambda = beta(self.cutmix_alpha, rng);
            cut_box(size, lambda, (below(rng, size), below(rng, size)))
        } else {
            Mixing::Mixup { lambda: beta(self.mixup_alpha, rng) }
        }
    }
}

/// Returns CutMix with a box of 1 - `lambda` of the image around `center` (row, column). The box is
/// clipped to the image, and lambda is corrected.
fn cut_box(size: usize, lambda: f32, center: (usize, usize)) -> Mixing {
    let side = (size as f32 * (1.0 - lambda).sqrt()) as usize;
    let range = |center: usize| center.saturating_sub(side / 2)..(center + side.div_ceil(2)).min(size);
    let (rows, columns) = (range(center.0), range(center.1));
    let share = (rows.len() * columns.len()) as f32 / (size * size).max(1) as f32;
    Mixing::Cutmix { rows, columns, lambda: 1.0 - share }
}

/// Mixes views [batch, 3, size, size] as drawn for this size. The middle image of an odd batch is
/// its own partner and remains.
pub fn apply(mixed: &Mixing, views: &mut [f32], batch: usize, size: usize) {
    let plane = (size * size).max(1);
    let mut views = views.chunks_exact_mut(3 * plane).take(batch);
    while let (Some(view), Some(partner)) = (views.next(), views.next_back()) {
        match mixed {
            Mixing::None => return,
            Mixing::Mixup { lambda } => with_simd(
                #[inline(always)]
                || {
                    for (a, b) in view.iter_mut().zip(partner) {
                        (*a, *b) = (*a * lambda + *b * (1.0 - lambda), *b * lambda + *a * (1.0 - lambda));
                    }
                },
            ),
            Mixing::Cutmix { rows, columns, .. } => {
                for (own, other) in view.chunks_exact_mut(plane).zip(partner.chunks_exact_mut(plane)) {
                    for y in rows.clone() {
                        let inside = y * size + columns.start..y * size + columns.end;
                        own[inside.clone()].swap_with_slice(&mut other[inside]);
                    }
                }
            }
        }
    }
}

/// Returns targets [batch, classes] of mixed images: `lambda` of an image's label and 1 - `lambda`
/// of its partner's, of which `smoothing` (0 to 1) is spread over all classes. Labels that are not
/// below `classes` are ignored.
pub fn targets(labels: &[u32], classes: usize, lambda: f32, smoothing: f32) -> Vec<f32> {
    let mut targets = vec![smoothing / classes.max(1) as f32; labels.len() * classes];
    let pairs = labels.iter().zip(labels.iter().rev());
    for (target, (own, partner)) in targets.chunks_exact_mut(classes.max(1)).zip(pairs) {
        for (label, share) in [(own, lambda), (partner, 1.0 - lambda)] {
            if let Some(class) = target.get_mut(*label as usize) {
                *class += share * (1.0 - smoothing);
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, keyed};

    /// Statistics of 200000 draws of timm's Mixup: CutMix in half of them, mixup's lambda with mean
    /// 0.5018 and std 0.3099 (the distribution's are 0.5 and 0.3101). CutMix in 400000 draws for
    /// 224 pixels: lambda with mean 0.6808 and std 0.1885. Without rounding to pixels, integration
    /// gives the mean 1 - 77 / 240: a box of side r has r - r^2 / 4 of it inside, and r^2 is
    /// uniform.
    #[test]
    fn lambdas_are_drawn_as_by_timm() {
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        let (mut mixup, mut cutmix) = (Vec::new(), Vec::new());
        for _ in 0..100_000 {
            match Mix::default().draw(224, &mut rng) {
                Mixing::Mixup { lambda } => mixup.push(lambda as f64),
                Mixing::Cutmix { rows, columns, lambda } => {
                    assert!(rows.end <= 224 && columns.end <= 224);
                    let area = (rows.len() * columns.len()) as f64 / (224.0 * 224.0);
                    assert!((1.0 - area - lambda as f64).abs() < 1e-6);
                    cutmix.push(1.0 - area);
                }
                Mixing::None => panic!("always mixed"),
            }
        }
        assert!((cutmix.len() as f64 / 100_000.0 - 0.5).abs() < 0.006);
        for (lambdas, mean, std) in [(mixup, 0.5, 0.3101), (cutmix, 0.6808, 0.1885)] {
            let measured = lambdas.iter().sum::<f64>() / lambdas.len() as f64;
            let spread = (lambdas.iter().map(|l| (l - measured).powi(2)).sum::<f64>() / lambdas.len() as f64).sqrt();
            assert!((measured - mean).abs() < 0.004 && (spread - std).abs() < 0.003, "{measured} {spread}");
        }
    }

    /// Values of timm's cutmix_bbox_and_lam with these centers.
    #[test]
    fn boxes_are_timms() {
        for (size, lambda, center, rows, columns, corrected) in [
            (224, 0.3, (10, 200), 0..104, 107..224, 0.757_493_6),
            (224, 0.75, (111, 112), 55..167, 56..168, 0.75),
            (32, 0.9, (0, 31), 0..5, 26..32, 0.970_703_1),
            (33, 0.5, (16, 16), 5..28, 5..28, 0.514_233_2),
            (16, 0.0, (3, 8), 0..11, 0..16, 0.3125),
            (16, 1.0, (3, 8), 3..3, 8..8, 1.0),
        ] {
            let Mixing::Cutmix { rows: r, columns: c, lambda: l } = cut_box(size, lambda, center) else { panic!() };
            assert_eq!((r, c), (rows, columns), "{size} {lambda} {center:?}");
            assert!((l - corrected).abs() < 1e-6, "{l} is not {corrected}");
        }
    }

    #[test]
    fn settings_enable_and_disable_mixup_and_cutmix() {
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        let mut drawn = |mix: Mix| (0..50).map(|_| mix.draw(32, &mut rng)).collect::<Vec<_>>();
        let off = Mix { mixup_alpha: 0.0, cutmix_alpha: 0.0, ..Mix::default() };
        assert!(drawn(off.clone()).iter().all(|m| *m == Mixing::None));
        assert!(drawn(Mix { probability: 0.0, ..Mix::default() }).iter().all(|m| *m == Mixing::None));
        assert!(drawn(Mix { mixup_alpha: 0.8, ..off.clone() }).iter().all(|m| matches!(m, Mixing::Mixup { .. })));
        assert!(drawn(Mix { cutmix_alpha: 1.0, ..off }).iter().all(|m| matches!(m, Mixing::Cutmix { .. })));
        assert_eq!(Mixing::None.lambda(), 1.0);
    }

    /// Returns views of an odd batch, each of one value except for the first pixel of each channel.
    fn batch() -> Vec<f32> {
        let view = |value: f32| [vec![value + 0.5], vec![value; 3]].concat().repeat(3);
        [0.0, 10.0, 20.0, 30.0, 40.0].into_iter().flat_map(view).collect()
    }

    #[test]
    fn mixup_adds_the_reversed_batch() {
        let mut views = batch();
        apply(&Mixing::Mixup { lambda: 0.75 }, &mut views, 5, 2);
        let expected = [10.0, 15.0, 20.0, 25.0, 30.0];
        for (view, value) in views.chunks(12).zip(expected) {
            for channel in view.chunks(4) {
                assert_eq!(channel, [value + 0.5, value, value, value]);
            }
        }
    }

    #[test]
    fn cutmix_swaps_the_box_with_the_reversed_batch() {
        let mut views = batch();
        apply(&Mixing::Cutmix { rows: 0..2, columns: 1..2, lambda: 0.5 }, &mut views, 5, 2);
        let expected = [[0.5, 40.0, 0.0, 40.0], [10.5, 30.0, 10.0, 30.0], [20.5, 20.0, 20.0, 20.0], [30.5, 10.0, 30.0, 10.0]];
        for (view, expected) in views.chunks(12).zip(expected) {
            assert!(view.chunks(4).all(|channel| channel == expected), "{view:?}");
        }
    }

    #[test]
    fn unmixed_and_empty_batches_stay() {
        let mut views = batch();
        apply(&Mixing::None, &mut views, 5, 2);
        assert_eq!(views, batch());
        for batch in [0, 1] {
            apply(&Mixing::Mixup { lambda: 0.5 }, &mut views, batch, 2);
        }
        assert_eq!(views, batch());
        apply(&Mix::default().draw(0, &mut keyed(0, Purpose::View(0), 0, 0)), &mut [], 4, 0);
    }

    /// Values of timm's mixup_target for labels 0, 3, 3 of four classes.
    #[test]
    fn targets_are_timms() {
        let expected = [0.655, 0.025, 0.025, 0.295, 0.025, 0.025, 0.025, 0.925, 0.295, 0.025, 0.025, 0.655];
        let made = targets(&[0, 3, 3], 4, 0.7, 0.1);
        assert!(made.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{made:?}");
        assert_eq!(made.len(), 12);
        assert_eq!(targets(&[1, 0], 2, 1.0, 0.0), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(targets(&[7], 2, 1.0, 0.0), [0.0, 0.0]);
        assert!(targets(&[7], 0, 1.0, 0.1).is_empty());
    }
}
