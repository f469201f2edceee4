//! From token rows to features: chosen rows (class tokens, masked patches), or the mean of each image's patch tokens.

use crate::element::Number;
use crate::cpu::matmul::Values;
use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::{add, add_scaled};
use crate::tensor::ValuesMut;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

use crate::ops::check_offsets;

fn copy_rows<T: Number>(x: &[T], indices: &[usize], y: &mut [T]) {
    let width = y.len() / indices.len().max(1);
    for_each_chunk(y, width, |i, y| y.copy_from_slice(&x[indices[i] * width..][..width]));
}

impl Tape<'_> {
    /// x [rows, width] -> [indices, width], row `indices[i]` of x in row i.
    pub fn select_rows(&mut self, x: &Var, indices: &Arc<[usize]>) -> Var {
        let width = x.value.width();
        let mut y = Tensor::stale_in(x.value.precision(), [indices.len(), width]);
        match (x.value.values(), y.values_mut()) {
            (Values::F32(x), ValuesMut::F32(y)) => copy_rows(x, indices, y),
            (Values::Bf16(x), ValuesMut::Bf16(y)) => copy_rows(x, indices, y),
            _ => unreachable!("a copy has the precision of what it copies"),
        }
        if !self.wants_gradient(&[x], &[]) {
            return Var::constant(y);
        }
        let (node, shape, indices) = (x.node(), x.value.dims().to_vec(), indices.clone());
        self.record(y, move |dy, pass| {
            let mut dx = Tensor::zeros(&shape[..]);
            let data = dx.data_mut();
            for (dy, &row) in dy.to_f32().data().chunks_exact(width).zip(&indices[..]) {
                add(&mut data[row * width..][..width], dy);
            }
            pass.add(node, dx);
        })
    }

    /// x [rows, width], offsets [images + 1] -> [images, width]: the mean of each image's rows but its first `prefix`, the class token and
    /// registers; 0 for an image without others.
    pub fn mean_tokens(&mut self, x: &Var, offsets: &Arc<[usize]>, prefix: usize) -> Var {
        let width = x.value.width();
        check_offsets(offsets, x.value.rows());
        let mut y = Tensor::zeros([offsets.len() - 1, width]);
        for_each_chunk(y.data_mut(), width, |image, y| {
            let rows = offsets[image] + prefix..offsets[image + 1];
            let share = 1.0 / rows.len() as f32;
            rows.for_each(|row| add_scaled(y, share, &x.value.data()[row * width..][..width]));
        });
        if !self.wants_gradient(&[x], &[]) {
            return Var::constant(y);
        }
        let (node, shape, offsets) = (x.node(), x.value.dims().to_vec(), offsets.clone());
        self.record(y, move |dy, pass| {
            let mut dx = Tensor::zeros(&shape[..]);
            let data = dx.data_mut();
            for (image, dy) in dy.data().chunks_exact(width).enumerate() {
                let rows = offsets[image] + prefix..offsets[image + 1];
                let share = 1.0 / rows.len() as f32;
                rows.for_each(|row| add_scaled(&mut data[row * width..][..width], share, dy));
            }
            pass.add(node, dx);
        })
    }
}
