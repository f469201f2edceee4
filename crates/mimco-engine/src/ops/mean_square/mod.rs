//! Mean squared difference from a constant, loss = mean (x - target)², the loss of the benchmark of
//! a backbone's training step.

mod cpu;

use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes the mean over all elements of (x - target)² for x in f32. Returns shape `[1]`; 0
    /// without elements.
    pub fn mean_square(&mut self, x: &Var, target: f32) -> Var {
        match self.device() {
            Device::Cpu => cpu::mean_square(self, x, target),
        }
    }
}
