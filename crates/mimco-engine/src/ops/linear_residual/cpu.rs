//! Affine map and residual sum on the CPU.

use crate::cpu::matmul::{Panels, in_blocks, product_serial};
use crate::cpu::rows::{RowWriter, first_rows, operand, operand_of_rows, uninit_rows};
use crate::ops::support::cpu::affine::packed_weight;
use crate::ops::support::cpu::branch::Branch;
use crate::ops::support::cpu::output_grad::OutputGrad;
use crate::ops::support::layer::Layer;
use crate::ops::support::residual::Residual;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn linear_residual(tape: &mut Tape<'_>, residual: &Var, x: &Var, layer: Layer, how: Residual<'_>) -> Var {
    let (parameters, precision) = (tape.parameters(), tape.precision());
    let (gamma, drop_path, stream) = (how.gamma, how.drop_path.cloned(), residual.value.rows());
    let ([outputs, inputs], rows) = (layer.sizes(parameters), x.value.rows());
    let branch = Branch::new(drop_path.as_ref(), stream).scaled(parameters, gamma);
    let mut y = Tensor::uninit(residual.value.dims());
    branch.copy_skipped(Some(&residual.value), &mut y);
    let w = tape.packed(layer.weight);
    {
        let y = RowWriter::new(&mut y);
        in_blocks(rows, inputs, precision, |block| {
            let x = operand_of_rows(&x.value, block.clone());
            // SAFETY: each block owns its rows.
            unsafe { layer.onto_residual(parameters, &w, (&residual.value, branch), x, block.start, &y) };
        });
    }
    let [weight, bias] = layer.parameters();
    if !tape.wants_gradient(&[residual, x], &[weight, bias, gamma.unwrap_or(weight)]) {
        return Var::constant(y);
    }
    let (residual, x) = (residual.node(), x.clone());
    tape.record(y, move |dy, pass| {
        let branch = Branch::new(drop_path.as_ref(), stream).scaled(parameters, gamma);
        let w = packed_weight(parameters, layer);
        let mut output_grad = OutputGrad::uninit(rows, outputs, precision);
        let mut dx = Tensor::uninit_in(x.value.precision(), [rows, inputs]);
        {
            let (output_grad, dx) = (output_grad.writer(), RowWriter::new(&mut dx));
            in_blocks(rows, outputs, precision, |block| {
                let mut dy_rows = uninit_rows(precision, block.len(), outputs);
                let out = RowWriter::new(&mut dy_rows);
                // SAFETY: each block owns its rows.
                unsafe { output_grad.write_rows(block.clone(), (&dy, branch), None, (&out, 0)) };
                product_serial(first_rows(&dy_rows, block.len()), &w, |mut tile| {
                    // SAFETY: the rows of this block.
                    unsafe { dx.write_tile(block.start, &mut tile) };
                });
            });
        }
        pass.add(residual, dy);
        pass.add(x.node(), dx);
        layer.branch_gradients(pass, gamma, &output_grad, || Panels::new(operand(&x.value), precision));
    })
}
