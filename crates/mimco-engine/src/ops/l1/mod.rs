//! Mean absolute difference, loss = mean |prediction - target|, with a constant target.

mod cpu;

use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// Computes the loss of prediction and target [rows, width] in f32. Returns shape `[1]`; 0
    /// without rows.
    ///
    /// # Panics
    /// If prediction and target differ in their number of elements.
    pub fn l1(&mut self, prediction: &Var, target: &Tensor) -> Var {
        assert_eq!(prediction.value.elements(), target.elements(), "prediction and target differ in size");
        match self.device() {
            Device::Cpu => cpu::l1(self, prediction, target),
        }
    }
}
