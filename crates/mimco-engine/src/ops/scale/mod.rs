//! A scalar times a constant, for metrics.

mod cpu;

use crate::device::Device;
use crate::tensor::Tensor;

impl Tensor {
    /// Multiplies a tensor of shape `[1]` by `factor`, in f32, without a gradient.
    ///
    /// # Panics
    /// If the tensor does not have exactly one element in f32.
    pub fn scale(&self, factor: f32) -> Tensor {
        assert_eq!(self.elements(), 1, "scale() needs a tensor of one element");
        match self.device() {
            Device::Cpu => cpu::scale(self, factor),
        }
    }
}
