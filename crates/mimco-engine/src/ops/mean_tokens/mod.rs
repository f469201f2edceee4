//! The mean of each image's patch tokens.

mod cpu;

use super::support::offsets::check_offsets;
use crate::device::Device;
use crate::tape::{Tape, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// Averages each image's rows of x [rows, width] in f32, without its first `prefix` rows (class
    /// token and registers); offsets [images + 1].
    ///
    /// Returns [images, width]; 0 for an image without other rows.
    ///
    /// # Panics
    /// If the offsets do not rise from 0 to the number of rows.
    pub fn mean_tokens(&mut self, x: &Var, offsets: &Arc<[usize]>, prefix: usize) -> Var {
        check_offsets(offsets, x.value.rows());
        match self.device() {
            Device::Cpu => cpu::mean_tokens(self, x, offsets, prefix),
        }
    }
}
