//! Norm and affine map on the CPU.

use crate::cpu::matmul::{Panels, in_blocks, product_serial};
use crate::cpu::rows::{RowWriter, first_rows, uninit_rows};
use crate::cpu::threads::DisjointSlices;
use crate::ops::support::cpu::affine::packed_weight;
use crate::ops::support::cpu::branch::Branch;
use crate::ops::support::cpu::norm::NormBackward;
use crate::ops::support::cpu::output_grad::OutputGrad;
use crate::ops::support::drop_path::DropPath;
use crate::ops::support::layer::Layer;
use crate::ops::support::norm::Norm;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn norm_linear(tape: &mut Tape<'_>, x: &Var, norm: Norm, layer: Layer, drop_path: Option<&DropPath>) -> Var {
    let (parameters, precision) = (tape.parameters(), tape.precision());
    let (drop_path, stream) = (drop_path.cloned(), x.value.rows());
    let branch = Branch::new(drop_path.as_ref(), stream);
    let ([outputs, inputs], rows) = (layer.sizes(parameters), branch.len());
    let (mut y, mut statistics) = (Tensor::uninit_in(precision, [rows, outputs]), Tensor::uninit([rows, 2]));
    let w = tape.packed(layer.weight);
    {
        let (y, statistics) = (RowWriter::new(&mut y), DisjointSlices::new(statistics.data_mut()));
        in_blocks(rows, outputs, precision, |block| {
            let mut normal = uninit_rows(precision, block.len(), inputs);
            // SAFETY: each block owns its rows.
            unsafe { norm.forward(parameters, (&x.value, branch), block.clone(), &RowWriter::new(&mut normal), 0, &statistics) };
            layer.forward(
                parameters,
                &w,
                first_rows(&normal, block.len()),
                #[inline(always)]
                |row, column, values| {
                    // SAFETY: each block owns its rows.
                    unsafe { y.write(block.start + row, column, values) };
                },
            );
        });
    }
    let [weight, bias] = layer.parameters();
    if !tape.wants_gradient(&[x], &[norm.weight, norm.bias, weight, bias]) {
        return Var::constant(y);
    }
    let x = x.clone();
    tape.record(y, move |dy, pass| {
        let branch = Branch::new(drop_path.as_ref(), stream);
        let w = packed_weight(parameters, layer);
        let mut output_grad = OutputGrad::uninit(rows, outputs, precision);
        let mut normal = Panels::uninit(rows, inputs, precision);
        {
            let (output_grad, normal) = (output_grad.writer(), normal.writer());
            let base = pass.take(x.node());
            NormBackward::new(norm, parameters, &x, branch, &statistics, base).run(pass, outputs, |back, block| {
                let mut dy_rows = uninit_rows(precision, block.len(), outputs);
                let out = RowWriter::new(&mut dy_rows);
                // SAFETY: each block owns its rows.
                unsafe { output_grad.write_rows(block.clone(), (&dy, Branch::new(None, rows)), None, (&out, 0)) };
                let mut dnormal = Tensor::uninit([block.len(), inputs]);
                let out = RowWriter::new(&mut dnormal);
                product_serial(first_rows(&dy_rows, block.len()), &w, |mut tile| {
                    // SAFETY: the rows of this block.
                    unsafe { out.write_tile(0, &mut tile) };
                });
                // SAFETY: each block owns its rows.
                unsafe { back.rows(block, dnormal.data(), Some(&normal)) };
            });
        }
        drop(dy);
        layer.gradients(pass, &output_grad, || normal);
    })
}
