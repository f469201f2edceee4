//! The first part of a transformer's branch, y = norm(x) Wᵀ + b.
//!
//! The rows are processed in cache-sized blocks; each block is normalized and multiplied before the
//! next one starts. The backward pass computes norm(x) again, which costs less than its memory.

mod cpu;

use super::support::drop_path::DropPath;
use super::support::layer::Layer;
use super::support::norm::Norm;
use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes y = norm(x) Wᵀ + b for x [rows, inputs] in f32. Returns [rows that keep the branch,
    /// outputs] in the parameters' precision.
    ///
    /// # Panics
    /// If the width of x is not that of the norm and the layer's number of inputs, or the rows of
    /// `drop_path` are not rows of x.
    pub fn norm_linear(&mut self, x: &Var, norm: Norm, layer: Layer, drop_path: Option<&DropPath>) -> Var {
        let [_, inputs] = layer.sizes(self.parameters());
        assert_eq!(inputs, x.value.width(), "{}: width", self.parameters().entry(layer.weight).name);
        norm.check_width(self.parameters(), inputs);
        match self.device() {
            Device::Cpu => cpu::norm_linear(self, x, norm, layer, drop_path),
        }
    }
}
