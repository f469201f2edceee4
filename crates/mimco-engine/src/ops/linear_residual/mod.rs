//! The last part of a transformer's branch and the residual sum, y = r + s γ ⊙ (x Wᵀ + b), with γ
//! of LayerScale (Touvron et al. 2021) and s of drop path.

mod cpu;

use super::support::layer::Layer;
use super::support::residual::Residual;
use crate::device::Device;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// Computes y = r + s γ ⊙ (x Wᵀ + b) for the residual r [rows, outputs] in f32 and x [rows that
    /// keep the branch, inputs]. Returns [rows, outputs] in f32.
    ///
    /// # Panics
    /// If the sizes of r, x and the layer do not match, or the rows of drop path are not rows of r.
    pub fn linear_residual(&mut self, residual: &Var, x: &Var, layer: Layer, how: Residual<'_>) -> Var {
        let [outputs, inputs] = layer.sizes(self.parameters());
        let kept = how.drop_path.map_or(residual.value.rows(), |drop| drop.rows.len());
        let matching = inputs == x.value.width() && [x.value.rows(), outputs] == [kept, residual.value.width()];
        assert!(matching, "{}: a branch of another size", self.parameters().entry(layer.weight).name);
        match self.device() {
            Device::Cpu => cpu::linear_residual(self, residual, x, layer, how),
        }
    }
}
