//! Selection of rows, such as class tokens and masked patches: y[i] = x[indices[i]].

mod cpu;

use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

impl Tape<'_> {
    /// Copies row `indices[i]` of x [rows, width] to row i. Returns [indices, width] in x's
    /// precision.
    ///
    /// # Panics
    /// If an index is not a row of x.
    pub fn select_rows(&mut self, x: &Var, indices: &Arc<[usize]>) -> Var {
        let y = x.value.select_rows(indices);
        if !self.wants_gradient(&[x], &[]) {
            return Var::constant(y);
        }
        match self.device() {
            Device::Cpu => cpu::record(self, x, indices, y),
        }
    }
}

impl Tensor {
    /// Copies row `indices[i]` of this tensor [rows, width] to row i, without a gradient. Returns
    /// [indices, width] in the same precision.
    ///
    /// # Panics
    /// If an index is not a row of the tensor.
    pub fn select_rows(&self, indices: &[usize]) -> Tensor {
        let rows = self.rows();
        assert!(indices.iter().all(|&row| row < rows), "indices of rows");
        match self.device() {
            Device::Cpu => cpu::select_rows(self, indices),
        }
    }
}
