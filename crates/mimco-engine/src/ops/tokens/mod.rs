//! The encoder's input from patch embeddings (Dosovitskiy et al. 2021): class token, registers
//! (Darcet et al. 2023), and patches, of which the masked ones become the mask token. Positions are
//! added to all but the registers.
//!
//! With R registers y[b, 0] = class + pos[0]; y[b, 1 + i] = register i;
//! y[b, 1 + R + i] = (masked(b, i) ? mask_token : patches[b, i]) + pos[1 + i].

mod cpu;
pub mod inputs;

use crate::device::Device;
use crate::parameters::ParameterId;
use crate::tape::{Tape, Var};
use inputs::{Masked, Prefix};

impl Tape<'_> {
    /// Assembles the tokens of `batch` images from the embeddings of their visible patches
    /// [visible, width], in order, and positions [1, patches + 1, width]. Returns [batch · (1 + R +
    /// patches), width] in f32.
    ///
    /// # Panics
    /// If the mask does not have an element for each patch, or `patches` a row for each visible
    /// patch.
    pub fn tokens(&mut self, patches: &Var, batch: usize, prefix: Prefix, positions: ParameterId, masked: Option<Masked>) -> Var {
        let width = patches.value.width();
        let count = batch * (self.parameters().entry(positions).range.len() / width - 1);
        assert!(masked.as_ref().is_none_or(|m| m.masked.len() == count), "a mask of each patch");
        let visible = masked.as_ref().map_or(count, |m| m.masked.iter().filter(|&&masked| !masked).count());
        assert_eq!(patches.value.rows(), visible, "a row for each visible patch");
        match self.device() {
            Device::Cpu => cpu::tokens(self, patches, batch, prefix, positions, masked),
        }
    }
}
