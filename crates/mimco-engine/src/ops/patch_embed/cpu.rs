//! The layout of patches on the CPU.

use crate::cpu::simd::with_simd;
use crate::cpu::threads::for_each_chunk;
use crate::tensor::Tensor;

/// Returns the normalized patches that are not masked, [patches, channels · patch · patch].
pub(super) fn lay_out_patches(images: &Tensor, mean: &[f32], std: &[f32], patch: usize, masked: Option<&[bool]>) -> Tensor {
    let &[batch, channels, height, width] = images.dims() else { panic!("images have four dimensions") };
    let (down, across) = (height / patch, width / patch);
    let (tokens, columns) = (down * across, channels * patch * patch);
    let visible: Vec<usize> = (0..batch * tokens).filter(|&position| !masked.is_some_and(|masked| masked[position])).collect();
    let mut patches = Tensor::uninit([visible.len(), columns]);
    const PATCHES: usize = 32;
    for_each_chunk(patches.data_mut(), PATCHES * columns, |block, out| {
        with_simd(
            #[inline(always)]
            || {
                for (out, &position) in out.chunks_exact_mut(columns).zip(&visible[block * PATCHES..]) {
                    let (image, token) = (position / tokens, position % tokens);
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
