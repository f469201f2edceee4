//! Multi-head self-attention (Vaswani et al. 2017) over packed tokens,
//! softmax(q kᵀ / sqrt(d)) v for each image and head.
//!
//! A row of qkv [rows, 3 · width] has q, k and v, and in each the heads one after the other, as in
//! timm. Image i owns the rows `offsets[i]..offsets[i + 1]`, so images may differ in their number
//! of tokens.

mod cpu;

use super::support::offsets::check_offsets;
use crate::device::Device;
use crate::tape::{Tape, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// Attends among the tokens of each image: qkv [rows, 3 · width], offsets [images + 1]. Returns
    /// [rows, width] in qkv's precision. Products are in the parameters' precision, the softmax in
    /// f32.
    ///
    /// # Panics
    /// If the width of qkv is not three times a multiple of `heads`, or the offsets do not rise
    /// from 0 to the number of rows.
    pub fn attention(&mut self, qkv: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
        let (rows, width) = (qkv.value.rows(), qkv.value.width() / 3);
        assert_eq!(qkv.value.width(), 3 * width, "a row holds q, k and v");
        assert_eq!(width % heads, 0, "heads divide the width");
        check_offsets(offsets, rows);
        match self.device() {
            Device::Cpu => cpu::attention(self, qkv, offsets, heads),
        }
    }
}
