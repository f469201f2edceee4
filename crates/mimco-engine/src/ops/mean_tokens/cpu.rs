//! The mean of tokens on the CPU.

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::add_scaled;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) fn mean_tokens(tape: &mut Tape<'_>, x: &Var, offsets: &Arc<[usize]>, prefix: usize) -> Var {
    let width = x.value.width();
    let mut y = Tensor::zeros([offsets.len() - 1, width]);
    for_each_chunk(y.data_mut(), width, |image, y| {
        let rows = offsets[image] + prefix..offsets[image + 1];
        let weight = 1.0 / rows.len() as f32;
        rows.for_each(|row| add_scaled(y, weight, &x.value.data()[row * width..][..width]));
    });
    if !tape.wants_gradient(&[x], &[]) {
        return Var::constant(y);
    }
    let (node, shape, offsets) = (x.node(), x.value.dims().to_vec(), offsets.clone());
    tape.record(y, move |dy, pass| {
        let mut dx = Tensor::zeros(&shape[..]);
        let data = dx.data_mut();
        for (image, dy) in dy.data().chunks_exact(width).enumerate() {
            let rows = offsets[image] + prefix..offsets[image + 1];
            let weight = 1.0 / rows.len() as f32;
            rows.for_each(|row| add_scaled(&mut data[row * width..][..width], weight, dy));
        }
        pass.add(node, dx);
    })
}
