//! A weighted sum of scalar losses, Σ weight · loss.

mod cpu;

use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes Σ weight · loss of losses of shape `[1]`. Returns shape `[1]`.
    ///
    /// # Panics
    /// If a loss does not have exactly one element.
    pub fn weighted_sum(&mut self, losses: &[(Var, f32)]) -> Var {
        assert!(losses.iter().all(|(loss, _)| loss.value.elements() == 1), "losses of one element");
        match self.device() {
            Device::Cpu => cpu::weighted_sum(self, losses),
        }
    }
}
