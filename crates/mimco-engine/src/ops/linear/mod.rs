//! An affine map with activation, y = act(x Wᵀ + b), with W [outputs, inputs] as in PyTorch.

mod cpu;

use super::support::layer::{Activation, Layer};
use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes y = act(x Wᵀ + b) for x [rows, inputs]. Returns [rows, outputs] in x's precision;
    /// the product is in the parameters' precision.
    ///
    /// # Panics
    /// If the width of x is not the layer's number of inputs.
    pub fn linear(&mut self, x: &Var, layer: Layer, activation: Activation) -> Var {
        let [_, inputs] = layer.sizes(self.parameters());
        assert_eq!(inputs, x.value.width(), "{}: width", self.parameters().entry(layer.weight).name);
        match self.device() {
            Device::Cpu => cpu::linear(self, x, layer, activation),
        }
    }
}
