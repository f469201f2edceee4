//! Layer normalization on the CPU.

use crate::cpu::matmul::in_blocks;
use crate::cpu::rows::RowWriter;
use crate::cpu::threads::DisjointSlices;
use crate::element::Precision;
use crate::ops::support::cpu::branch::Branch;
use crate::ops::support::cpu::norm::{NormBackward, normalize};
use crate::ops::support::norm::Norm;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn layer_norm(tape: &mut Tape<'_>, x: &Var, norm: Norm) -> Var {
    let (rows, width) = (x.value.rows(), x.value.width());
    let (parameters, all) = (tape.parameters(), Branch::new(None, rows));
    let [mut y, mut statistics] = [Tensor::uninit(x.value.dims()), Tensor::uninit([rows, 2])];
    {
        let (y, statistics) = (RowWriter::new(&mut y), DisjointSlices::new(statistics.data_mut()));
        in_blocks(rows, width, Precision::F32, |block| {
            // SAFETY: each block owns its rows.
            unsafe { norm.forward(parameters, (&x.value, all), block.clone(), &y, block.start, &statistics) };
        });
    }
    if !tape.wants_gradient(&[x], &[norm.weight, norm.bias]) {
        return Var::constant(y);
    }
    let x = x.clone();
    tape.record(y, move |dy, pass| {
        let base = pass.take(x.node());
        NormBackward::new(norm, parameters, &x, Branch::new(None, rows), &statistics, base).run(pass, width, |back, block| {
            let dy = &dy.data()[block.start * width..block.end * width];
            // SAFETY: each block owns its rows.
            unsafe { back.rows(block, dy, None) };
        });
    })
}

pub(super) fn layer_norm_plain(x: &Tensor, eps: f32) -> Tensor {
    let [mut y, mut statistics] = [Tensor::uninit(x.dims()), Tensor::uninit([x.rows(), 2])];
    let all = Branch::new(None, x.rows());
    {
        let (y, statistics) = (RowWriter::new(&mut y), DisjointSlices::new(statistics.data_mut()));
        in_blocks(x.rows(), x.width(), Precision::F32, |block| {
            // SAFETY: each block owns its rows.
            unsafe { normalize((x, all), eps, None, block.clone(), &y, block.start, &statistics) };
        });
    }
    y
}
