//! Patch embedding (Dosovitskiy et al. 2021): a convolution whose kernel is its stride, as the
//! product of every patch of the normalized image with one matrix.
//!
//! (image - mean) / std is computed while the patches are laid out as rows [batch · tokens,
//! channels · patch²]. No normalized image is stored, and a teacher with another mean and std reads
//! the same crop.

mod cpu;

use super::support::layer::{Activation, Layer};
use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// Embeds the patches of images [batch, channels, height, width] with values in 0..1. The
    /// layer's weight is [width, channels, patch, patch].
    ///
    /// Returns [batch · tokens, width], an image's tokens row by row from the top left. The tokens
    /// for which `masked` [batch · tokens] is true are left out. Pixels after the last whole patch
    /// of a row or column are ignored.
    ///
    /// # Panics
    /// If images or weight do not have four dimensions, or the sizes of the arguments do not match.
    pub fn patch_embed(&mut self, images: &Tensor, mean: &[f32], std: &[f32], layer: Layer, masked: Option<&[bool]>) -> Var {
        let &[batch, channels, height, width] = images.dims() else { panic!("images have four dimensions") };
        let &[_, _, patch, _] = &self.parameters().entry(layer.weight).shape[..] else { panic!("the weight has four dimensions") };
        let tokens = batch * (height / patch) * (width / patch);
        assert!(mean.len() == channels && std.len() == channels, "mean and std of each channel");
        assert!(masked.is_none_or(|masked| masked.len() == tokens), "a mask of each patch");
        let patches = match self.device() {
            Device::Cpu => cpu::lay_out_patches(images, mean, std, patch, masked),
        };
        self.linear(&Var::constant(patches), layer, Activation::None)
    }
}
