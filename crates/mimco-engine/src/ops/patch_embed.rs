//! Patch embedding: a convolution whose kernel is its stride, of the normalised image: every patch times one matrix.
//!
//! Images [batch, channels, height, width] with values in 0..1; (image - mean) / deviation happens while the patches are laid out as
//! rows [batch · tokens, channels · patch²], so no normalised image is ever stored and a teacher with other statistics
//! reads the same crop.

use crate::cpu::matmul::{Matrix, matmul, matmul_serial};
use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::{add, wide};
use crate::{ParameterId, Tape, Tensor, Var};

use super::linear::add_column_sums;

impl Tape<'_> {
    /// images [batch, channels, height, width], weight [width, channels, patch, patch], bias `[width]` -> [batch · tokens, width];
    /// tokens in rows of patches from the top left.
    pub fn patch_embed(&mut self, images: &Tensor, mean: &[f32], std: &[f32], weight: ParameterId, bias: ParameterId) -> Var {
        let shape = &self.parameters().entry(weight).shape;
        let (width, patch) = (shape[0], shape[2]);
        let columns = shape[1] * patch * patch;
        let patches = lay_out_patches(images, mean, std, patch);
        assert_eq!(patches.width(), columns, "{}: channels", self.parameters().entry(weight).name);
        let mut y = Tensor::stale([patches.rows(), width]);
        let w = Matrix::new(self.parameters().get(weight), width, columns);
        let b = self.parameters().get(bias);
        matmul(y.data_mut(), Matrix::new(patches.data(), patches.rows(), columns), w.t(), false, |_, y| {
            y.chunks_exact_mut(width).for_each(|row| add(row, b));
        });
        if !self.wants_gradient(&[], &[weight, bias]) {
            return Var::constant(y);
        }
        self.record(y, move |dy, pass| {
            if let Some(dw) = pass.gradient(weight) {
                const BLOCK: usize = 32;
                let d = Matrix::new(dy.data(), patches.rows(), width);
                for_each_chunk(dw, BLOCK * columns, |i, dw| {
                    let rows = dw.len() / columns;
                    matmul_serial(dw, d.t().rows_from(i * BLOCK, rows), Matrix::new(patches.data(), patches.rows(), columns), true);
                });
            }
            if let Some(db) = pass.gradient(bias) {
                add_column_sums(db, dy.data(), width);
            }
        })
    }
}

/// [batch, channels, height, width] -> [batch · tokens, channels · patch · patch], normalised.
fn lay_out_patches(images: &Tensor, mean: &[f32], std: &[f32], patch: usize) -> Tensor {
    let &[batch, channels, height, width] = images.dims() else { panic!("images have four dimensions") };
    let (down, across) = (height / patch, width / patch);
    let (tokens, columns) = (down * across, channels * patch * patch);
    let mut patches = Tensor::stale([batch * tokens, columns]);
    for_each_chunk(patches.data_mut(), tokens * columns, |image, out| {
        let image = &images.data()[image * channels * height * width..][..channels * height * width];
        wide(
            #[inline(always)]
            || {
                for (token, out) in out.chunks_exact_mut(columns).enumerate() {
                    let (top, left) = (token / across * patch, token % across * patch);
                    for (row, out) in out.chunks_exact_mut(patch).enumerate() {
                        let (channel, y) = (row / patch, top + row % patch);
                        let pixels = &image[(channel * height + y) * width + left..][..patch];
                        let (mean, scale) = (mean[channel], 1.0 / std[channel]);
                        out.iter_mut().zip(pixels).for_each(|(o, p)| *o = (p - mean) * scale);
                    }
                }
            },
        );
    });
    patches
}
