//! SimMIM's mask generator (Xie et al. 2022): squares of `unit` x `unit` patches, a fixed share of them hidden, drawn for each image
//! on its own.

use mimco_data::random::{Purpose, below, keyed};

/// Sizes of a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskGenerator {
    /// Patches along a side of the image.
    grid: usize,
    /// Patches along a side of a unit; divides `grid`.
    unit: usize,
    /// Units to hide.
    hidden_units: usize,
}

impl MaskGenerator {
    /// Hides ceil(ratio · units) of the (grid / unit)² units.
    pub fn new(grid: usize, unit: usize, ratio: f64) -> MaskGenerator {
        let units = (grid / unit) * (grid / unit);
        // A product such as 0.6 · 25 must not round up for its last binary digit.
        let hidden_units = ((units as f64 * ratio - 1e-9).ceil().max(0.0) as usize).min(units);
        MaskGenerator { grid, unit, hidden_units }
    }

    /// Patches hidden in each image.
    pub fn hidden(&self) -> usize {
        self.hidden_units * self.unit * self.unit
    }

    /// The mask of image `index` in `epoch`, `[grid²]`, true where hidden.
    pub fn draw(&self, seed: u64, epoch: u64, index: u64) -> Vec<bool> {
        let across = self.grid / self.unit;
        let mut units: Vec<usize> = (0..across * across).collect();
        let mut rng = keyed(seed, Purpose::Mask, epoch, index);
        let mut mask = vec![false; self.grid * self.grid];
        for i in 0..self.hidden_units {
            let other = i + below(&mut rng, units.len() - i);
            units.swap(i, other);
            let (top, left) = (units[i] / across * self.unit, units[i] % across * self.unit);
            for row in top..top + self.unit {
                mask[row * self.grid + left..][..self.unit].fill(true);
            }
        }
        mask
    }
}

/// Side of a unit where none is set: 32 pixels' worth of patches for images of 224 pixels and more, else 2 patches; the largest
/// divisor of the grid that is not above it.
pub fn default_unit(image: usize, patch: usize) -> usize {
    let grid = image / patch;
    let wanted = if image >= 224 { (32.0 / patch as f64).round().max(1.0) as usize } else { 2 };
    (1..=wanted.min(grid)).rev().find(|unit| grid.is_multiple_of(*unit)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_simmims() {
        // 224 px, patch 16: 49 units of 2 x 2, ceil(29.4) = 30 hidden, 120 of 196 tokens; 192 px: 36 units, 22 hidden.
        assert_eq!(MaskGenerator::new(14, 2, 0.6).hidden(), 120);
        assert_eq!(MaskGenerator::new(12, 2, 0.6).hidden(), 88);
        assert_eq!(MaskGenerator::new(5, 1, 0.6).hidden(), 15);
        assert_eq!(MaskGenerator::new(4, 2, 0.0).hidden(), 0);
        assert_eq!(MaskGenerator::new(4, 2, 1.0).hidden(), 16);
    }

    #[test]
    fn a_mask_is_made_of_whole_units_and_belongs_to_its_image() {
        let generator = MaskGenerator::new(8, 2, 0.6);
        let masks: Vec<_> = (0..50).map(|i| generator.draw(1, 0, i)).collect();
        for mask in &masks {
            assert_eq!(mask.iter().filter(|&&m| m).count(), generator.hidden());
            for row in 0..8 {
                for column in 0..8 {
                    assert_eq!(mask[row * 8 + column], mask[(row & !1) * 8 + (column & !1)]);
                }
            }
        }
        assert_eq!(masks[3], generator.draw(1, 0, 3));
        assert_ne!(masks[3], masks[4]);
        assert_ne!(masks[3], generator.draw(1, 1, 3));
        // Every unit is hidden about as often: 10 of 16 units in each of 50 masks, 31 expected.
        for unit in 0..16 {
            let place = unit / 4 * 16 + unit % 4 * 2;
            let count = masks.iter().filter(|m| m[place]).count();
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
