//! The second branch of a transformer's block,
//! y = x + s γ ⊙ (gelu(norm(x) W₁ᵀ + b₁) W₂ᵀ + b₂) (Dosovitskiy et al. 2021).
//!
//! The rows are processed in cache-sized blocks; each block runs the whole branch before the next
//! one starts, forward and backward. Of the hidden rows only GELU's arguments are kept for the
//! backward pass.

mod cpu;

use super::support::layer::Layer;
use super::support::norm::Norm;
use super::support::residual::Residual;
use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes y = x + s γ ⊙ (gelu(norm(x) W₁ᵀ + b₁) W₂ᵀ + b₂) for x [rows, width] in f32. Returns
    /// [rows, width] in f32.
    ///
    /// # Panics
    /// If the sizes of x, the norm and the layers do not match, or the rows of drop path are not
    /// rows of x.
    pub fn mlp(&mut self, x: &Var, norm: Norm, layers: [Layer; 2], how: Residual<'_>) -> Var {
        let (parameters, width) = (self.parameters(), x.value.width());
        let [[inner, inputs], [outputs, second_inputs]] = layers.map(|layer| layer.sizes(parameters));
        let name = &parameters.entry(layers[0].weight).name;
        assert!(inputs == width && outputs == width && inner == second_inputs, "{name}: sizes");
        norm.check_width(parameters, width);
        match self.device() {
            Device::Cpu => cpu::mlp(self, x, norm, layers, how),
        }
    }
}
