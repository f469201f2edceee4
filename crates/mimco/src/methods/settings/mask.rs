//! Settings of the patch mask.

use crate::Error;
use crate::methods::mask::{MaskGenerator, default_unit};
use crate::models::vit::VitConfig;
use crate::values::Auto;
use serde::{Deserialize, Serialize};

/// Settings of the patch mask (SimMIM's, Xie et al. 2022).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskSettings {
    /// Share of the units that is masked, rounded up.
    pub ratio: f64,
    /// Side of a unit in patches. auto: 32 pixels at images of 224 px and more, else 2 patches; at most
    /// that, and a divisor of the grid.
    pub unit: Auto<usize>,
}

impl Default for MaskSettings {
    fn default() -> MaskSettings {
        MaskSettings { ratio: 0.6, unit: Auto::Auto }
    }
}

impl MaskSettings {
    /// Returns the side of a unit in patches.
    pub fn unit(&self, vit: &VitConfig) -> usize {
        self.unit.value().unwrap_or(default_unit(vit.image, vit.patch))
    }

    /// Returns the mask generator for a model's grid.
    pub fn generator(&self, vit: &VitConfig) -> MaskGenerator {
        MaskGenerator::new(vit.grid(), self.unit(vit), self.ratio)
    }

    /// Checks the values against the grid of a model.
    ///
    /// # Errors
    /// A ratio outside 0 to 1, or a unit that does not divide the grid.
    pub fn check(&self, vit: &VitConfig) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(Error::Setting(format!("mask.ratio={}: must be from 0 to 1", self.ratio)));
        }
        match self.unit.value() {
            Some(unit) if unit == 0 || !vit.grid().is_multiple_of(unit) => Err(Error::Setting(format!(
                "mask.unit={unit} does not divide the grid of {0} x {0} patches; give a divisor of {0}, or auto",
                vit.grid()
            ))),
            _ => Ok(()),
        }
    }
}
