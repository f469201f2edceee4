//! Layer normalization (Ba, Kiros and Hinton 2016): y = (x - mean) / sqrt(var + eps) · weight +
//! bias over each row, with the biased variance.

mod cpu;

use super::support::norm::Norm;
use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// Normalizes the rows of x [rows, width] in f32. Returns [rows, width] in f32.
    ///
    /// # Panics
    /// If the norm's parameters have another width.
    pub fn layer_norm(&mut self, x: &Var, norm: Norm) -> Var {
        norm.check_width(self.parameters(), x.value.width());
        match self.device() {
            Device::Cpu => cpu::layer_norm(self, x, norm),
        }
    }
}

/// Normalizes the rows of x [rows, width] in f32 without weight and bias, for values that need no
/// gradient (a teacher's features). Returns [rows, width] in f32.
pub fn layer_norm_plain(x: &Tensor, eps: f32) -> Tensor {
    match x.device() {
        Device::Cpu => cpu::layer_norm_plain(x, eps),
    }
}
