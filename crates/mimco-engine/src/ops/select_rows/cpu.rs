//! The selection of rows on the CPU.

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::add;
use crate::element::{Element, Values, ValuesMut};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) fn select_rows(x: &Tensor, indices: &[usize]) -> Tensor {
    let mut y = Tensor::uninit_in(x.precision(), [indices.len(), x.width()]);
    match (x.values(), y.values_mut()) {
        (Values::F32(x), ValuesMut::F32(y)) => copy_rows(x, indices, y),
        (Values::Bf16(x), ValuesMut::Bf16(y)) => copy_rows(x, indices, y),
        _ => unreachable!("x and y have one precision"),
    }
    y
}

fn copy_rows<T: Element>(x: &[T], indices: &[usize], y: &mut [T]) {
    let width = y.len() / indices.len().max(1);
    for_each_chunk(y, width, |i, y| y.copy_from_slice(&x[indices[i] * width..][..width]));
}

/// Records the selection `y` of rows of x.
pub(super) fn record(tape: &mut Tape<'_>, x: &Var, indices: &Arc<[usize]>, y: Tensor) -> Var {
    let (node, shape, width, indices) = (x.node(), x.value.dims().to_vec(), x.value.width(), indices.clone());
    tape.record(y, move |dy, pass| {
        let mut dx = Tensor::zeros(&shape[..]);
        let data = dx.data_mut();
        for (dy, &row) in dy.to_host().chunks_exact(width).zip(&indices[..]) {
            add(&mut data[row * width..][..width], dy);
        }
        pass.add(node, dx);
    })
}
