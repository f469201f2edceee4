//! SimMIM's patch masks (Xie et al. 2022): units of `unit` x `unit` patches, a fixed share of them
//! masked, drawn for each image separately.

use super::sampling::choose;
use mimco_data::random::{Purpose, keyed};
use std::sync::Arc;

/// Patches of a batch, [images · patches], images in order and patches in order.
#[derive(Clone)]
pub struct PatchMask {
    /// Patches that the student does not see.
    pub masked: Arc<[bool]>,
    /// Patches whose features the student predicts, as many in each image.
    pub predicted: Arc<[bool]>,
}

impl PatchMask {
    /// Masks patches and predicts the same ones, as in training.
    pub fn new(masked: Arc<[bool]>) -> PatchMask {
        PatchMask { predicted: masked.clone(), masked }
    }

    /// Returns the numbers of the predicted patches among all of the batch.
    pub fn predicted_patches(&self) -> impl Iterator<Item = usize> {
        (0..self.predicted.len()).filter(|&patch| self.predicted[patch])
    }
}

/// Draws masks of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskGenerator {
    /// Patches along a side of the image.
    grid: usize,
    /// Patches along a side of a unit; divides `grid`.
    unit: usize,
    /// Units to mask.
    masked_units: usize,
}

impl MaskGenerator {
    /// Masks ceil(ratio · units) of the (grid / unit)² units.
    pub fn new(grid: usize, unit: usize, ratio: f64) -> MaskGenerator {
        let units = (grid / unit) * (grid / unit);
        // A product such as 0.6 · 25 must not round up for its last binary digit.
        let masked_units = ((units as f64 * ratio - 1e-9).ceil().max(0.0) as usize).min(units);
        MaskGenerator { grid, unit, masked_units }
    }

    /// Returns the number of masked patches of each image.
    pub fn masked(&self) -> usize {
        self.masked_units * self.unit * self.unit
    }

    /// Draws the mask of sample `index` in `epoch`, `[grid²]`, true where masked.
    pub fn draw(&self, seed: u64, epoch: u64, index: u64) -> Vec<bool> {
        let across = self.grid / self.unit;
        let mut rng = keyed(seed, Purpose::Mask, epoch, index);
        let mut mask = vec![false; self.grid * self.grid];
        for unit in choose(across * across, self.masked_units, &mut rng) {
            let (top, left) = (unit / across * self.unit, unit % across * self.unit);
            for row in top..top + self.unit {
                mask[row * self.grid + left..][..self.unit].fill(true);
            }
        }
        mask
    }

    /// Draws the masks of a batch of samples in `epoch`.
    pub fn batch(&self, seed: u64, epoch: u64, samples: &[u32]) -> PatchMask {
        PatchMask::new(samples.iter().flat_map(|&index| self.draw(seed, epoch, index as u64)).collect())
    }
}

/// Returns the default side of a unit in patches: 32 pixels for images of 224 pixels and more, else 2
/// patches; at most that, and a divisor of the grid.
pub fn default_unit(image: usize, patch: usize) -> usize {
    let grid = image / patch;
    let preferred = if image >= 224 { (32.0 / patch as f64).round().max(1.0) as usize } else { 2 };
    (1..=preferred.min(grid)).rev().find(|unit| grid.is_multiple_of(*unit)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_simmims() {
        // 224 px, patch 16: 49 units of 2 x 2, ceil(29.4) = 30 masked, 120 of 196 tokens; 192 px: 36 units, 22 masked.
        assert_eq!(MaskGenerator::new(14, 2, 0.6).masked(), 120);
        assert_eq!(MaskGenerator::new(12, 2, 0.6).masked(), 88);
        assert_eq!(MaskGenerator::new(5, 1, 0.6).masked(), 15);
        assert_eq!(MaskGenerator::new(4, 2, 0.0).masked(), 0);
        assert_eq!(MaskGenerator::new(4, 2, 1.0).masked(), 16);
    }

    #[test]
    fn a_mask_is_made_of_whole_units_and_belongs_to_its_image() {
        let generator = MaskGenerator::new(8, 2, 0.6);
        let masks: Vec<_> = (0..50).map(|i| generator.draw(1, 0, i)).collect();
        for mask in &masks {
            assert_eq!(mask.iter().filter(|&&m| m).count(), generator.masked());
            for row in 0..8 {
                for column in 0..8 {
                    assert_eq!(mask[row * 8 + column], mask[(row & !1) * 8 + (column & !1)]);
                }
            }
        }
        assert_eq!(masks[3], generator.draw(1, 0, 3));
        assert_ne!(masks[3], masks[4]);
        assert_ne!(masks[3], generator.draw(1, 1, 3));
        // Every unit is masked about as often: 10 of 16 units in each of 50 masks, 31 expected.
        for unit in 0..16 {
            let patch = unit / 4 * 16 + unit % 4 * 2;
            let count = masks.iter().filter(|m| m[patch]).count();
            assert!((18..=44).contains(&count), "unit {unit}: {count}");
        }
    }

    #[test]
    fn the_default_unit_divides_the_grid() {
        assert_eq!(default_unit(224, 16), 2);
        assert_eq!(default_unit(224, 14), 2);
        assert_eq!(default_unit(224, 32), 1);
        assert_eq!(default_unit(224, 8), 4);
        assert_eq!(default_unit(28, 7), 2);
        assert_eq!(default_unit(28, 4), 1); // a grid of 7
        assert_eq!(default_unit(336, 14), 2);
    }
}
