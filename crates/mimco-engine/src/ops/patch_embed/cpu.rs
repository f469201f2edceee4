//! Patch embedding: a convolution whose kernel is its stride, of the normalised image: every patch times one matrix.
//!
//! Images [batch, channels, height, width] with values in 0..1; (image - mean) / deviation happens while the patches are laid out as
//! rows [batch · tokens, channels · patch²], so no normalised image is ever stored and a teacher with other statistics
//! reads the same crop.

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::wide;
use crate::{Tape, Tensor, Var};

use crate::ops::{Activation, Layer};

impl Tape<'_> {
    /// images [batch, channels, height, width], the layer's weight [width, channels, patch, patch] -> [batch · tokens, width]; tokens in rows of
    /// patches from the top left. Of those that are `hidden` [batch · tokens] nothing is worked out, and the others stand close.
    pub fn patch_embed(&mut self, images: &Tensor, mean: &[f32], std: &[f32], layer: Layer, hidden: Option<&[bool]>) -> Var {
        let patch = self.parameters().entry(layer.weight).shape[2];
        let patches = Var::constant(lay_out_patches(images, mean, std, patch, hidden));
        self.linear(&patches, layer, Activation::None)
    }
}

/// [batch, channels, height, width] -> [seen, channels · patch · patch], normalised.
fn lay_out_patches(images: &Tensor, mean: &[f32], std: &[f32], patch: usize, hidden: Option<&[bool]>) -> Tensor {
    let &[batch, channels, height, width] = images.dims() else { panic!("images have four dimensions") };
    let (down, across) = (height / patch, width / patch);
    let (tokens, columns) = (down * across, channels * patch * patch);
    let seen: Vec<usize> = (0..batch * tokens).filter(|&place| !hidden.is_some_and(|hidden| hidden[place])).collect();
    let mut patches = Tensor::stale([seen.len(), columns]);
    const PATCHES: usize = 32;
    for_each_chunk(patches.data_mut(), PATCHES * columns, |block, out| {
        wide(
            #[inline(always)]
            || {
                for (out, &place) in out.chunks_exact_mut(columns).zip(&seen[block * PATCHES..]) {
                    let (image, token) = (place / tokens, place % tokens);
                    let image = &images.data()[image * channels * height * width..][..channels * height * width];
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
