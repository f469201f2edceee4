//! The affine map on the CPU.

use crate::cpu::matmul::{Panels, in_blocks, product};
use crate::cpu::rows::{RowWriter, first_rows, operand, uninit_rows};
use crate::cpu::vector::gelu;
use crate::ops::support::cpu::affine::packed_weight;
use crate::ops::support::cpu::branch::Branch;
use crate::ops::support::cpu::output_grad::OutputGrad;
use crate::ops::support::layer::{Activation, Layer};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn linear(tape: &mut Tape<'_>, x: &Var, layer: Layer, activation: Activation) -> Var {
    let (parameters, precision) = (tape.parameters(), tape.precision());
    let ([outputs, inputs], rows) = (layer.sizes(parameters), x.value.rows());
    let wants = tape.wants_gradient(&[x], &layer.parameters());
    let uninit = || Tensor::uninit_in(x.value.precision(), [rows, outputs]);
    let (mut y, mut before) = (uninit(), (wants && activation == Activation::Gelu).then(uninit));
    {
        let (y, before) = (RowWriter::new(&mut y), before.as_mut().map(RowWriter::new));
        product(operand(&x.value), &tape.packed(layer.weight), |tile| {
            layer.finish(
                parameters,
                tile,
                #[inline(always)]
                |row, column, values| {
                    // SAFETY: a part of one tile; tiles do not overlap.
                    unsafe {
                        if let Some(before) = &before {
                            before.write(row, column, values);
                        }
                        if activation == Activation::Gelu {
                            values.iter_mut().for_each(|y| *y = gelu(*y));
                        }
                        y.write(row, column, values);
                    }
                },
            );
        });
    }
    if !wants {
        return Var::constant(y);
    }
    let x = x.clone();
    tape.record(y, move |dy, pass| {
        let all = Branch::new(None, rows);
        let mut output_grad = OutputGrad::uninit(rows, outputs, precision);
        let mut dy_rows = uninit_rows(precision, rows, outputs);
        {
            let (output_grad, out) = (output_grad.writer(), RowWriter::new(&mut dy_rows));
            in_blocks(rows, outputs, precision, |block| {
                let first = block.start;
                // SAFETY: each block owns its rows.
                unsafe { output_grad.write_rows(block, (&dy, all), before.as_ref(), (&out, first)) };
            });
        }
        layer.gradients(pass, &output_grad, || Panels::new(operand(&x.value), precision));
        if x.node().is_some() {
            let mut dx = Tensor::uninit_in(x.value.precision(), [rows, inputs]);
            {
                let dx = RowWriter::new(&mut dx);
                product(first_rows(&dy_rows, rows), &packed_weight(parameters, layer), |mut tile| {
                    // SAFETY: tiles do not overlap.
                    unsafe { dx.write_tile(0, &mut tile) };
                });
            }
            pass.add(x.node(), dx);
        }
    })
}
