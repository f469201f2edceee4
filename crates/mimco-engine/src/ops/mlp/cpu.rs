//! The MLP branch on the CPU.

use crate::cpu::matmul::{PANEL, Panels, in_blocks, product_serial};
use crate::cpu::rows::{RowWriter, first_rows, uninit_rows};
use crate::cpu::simd::with_simd;
use crate::cpu::threads::DisjointSlices;
use crate::cpu::vector::gelu;
use crate::ops::support::cpu::affine::packed_weight;
use crate::ops::support::cpu::branch::Branch;
use crate::ops::support::cpu::norm::NormBackward;
use crate::ops::support::cpu::output_grad::OutputGrad;
use crate::ops::support::layer::Layer;
use crate::ops::support::norm::Norm;
use crate::ops::support::residual::Residual;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// GELU's arguments are kept in sheets of 32 columns, [sheet · rows + row, 32], the order in which
/// they are written and read.
pub(super) fn mlp(tape: &mut Tape<'_>, x: &Var, norm: Norm, [first, second]: [Layer; 2], how: Residual<'_>) -> Var {
    let (parameters, precision) = (tape.parameters(), tape.precision());
    let [inner, _] = first.sizes(parameters);
    let (gamma, drop_path, stream, width) = (how.gamma, how.drop_path.cloned(), x.value.rows(), x.value.width());
    let branch = Branch::new(drop_path.as_ref(), stream).scaled(parameters, gamma);
    let rows = branch.len();
    let trained = [[norm.weight, norm.bias], first.parameters(), second.parameters(), [gamma.unwrap_or(norm.weight); 2]].concat();
    let wants = tape.wants_gradient(&[x], &trained);
    let [mut y, mut statistics] = [Tensor::uninit(x.value.dims()), Tensor::uninit([rows, 2])];
    branch.copy_skipped(Some(&x.value), &mut y);
    let mut before = wants.then(|| Tensor::uninit_in(precision, [inner.div_ceil(PANEL) * rows, PANEL]));
    let [w1, w2] = [first, second].map(|layer| tape.packed(layer.weight));
    {
        let (y, statistics) = (RowWriter::new(&mut y), DisjointSlices::new(statistics.data_mut()));
        let before = before.as_mut().map(RowWriter::new);
        in_blocks(rows, inner, precision, |block| {
            let mut normal = uninit_rows(precision, block.len(), width);
            // SAFETY: each block owns its rows.
            unsafe { norm.forward(parameters, (&x.value, branch), block.clone(), &RowWriter::new(&mut normal), 0, &statistics) };
            let mut hidden = uninit_rows(precision, block.len(), inner);
            let out = RowWriter::new(&mut hidden);
            first.forward(
                parameters,
                &w1,
                first_rows(&normal, block.len()),
                #[inline(always)]
                |row, column, values| {
                    // SAFETY: each block owns its rows.
                    unsafe {
                        if let Some(before) = &before {
                            before.write(column / PANEL * rows + block.start + row, 0, values);
                        }
                        values.iter_mut().for_each(|y| *y = gelu(*y));
                        out.write(row, column, values);
                    }
                },
            );
            let hidden = first_rows(&hidden, block.len());
            // SAFETY: each block owns its rows.
            unsafe { second.onto_residual(parameters, &w2, (&x.value, branch), hidden, block.start, &y) };
        });
    }
    let (true, Some(before)) = (wants, before) else { return Var::constant(y) };
    let x = x.clone();
    tape.record(y, move |dy, pass| {
        let branch = Branch::new(drop_path.as_ref(), stream).scaled(parameters, gamma);
        let [w1, w2] = [first, second].map(|layer| packed_weight(parameters, layer));
        let [mut dbranch, mut dbefore] = [width, inner].map(|width| OutputGrad::uninit(rows, width, precision));
        let [mut normal, mut hidden] = [width, inner].map(|width| Panels::uninit(rows, width, precision));
        {
            let (dbranch, dbefore, normal, hidden) = (dbranch.writer(), dbefore.writer(), normal.writer(), hidden.writer());
            pass.add(x.node(), dy.clone());
            let base = pass.take(x.node());
            NormBackward::new(norm, parameters, &x, branch, &statistics, base).run(pass, inner, |back, block| {
                let count = block.len();
                let mut dbranch_rows = uninit_rows(precision, count, width);
                let out = RowWriter::new(&mut dbranch_rows);
                // SAFETY: each block owns its rows.
                unsafe { dbranch.write_rows(block.clone(), (&dy, branch), None, (&out, 0)) };
                let mut dbefore_rows = uninit_rows(precision, count, inner);
                let out = RowWriter::new(&mut dbefore_rows);
                product_serial(first_rows(&dbranch_rows, count), &w2, |mut tile| {
                    with_simd(
                        #[inline(always)]
                        // SAFETY: each block owns its rows.
                        || unsafe { dbefore.write_through_gelu(&block, &mut tile, &before, &hidden, &out) },
                    );
                });
                drop(dbranch_rows);
                let mut dnormal = Tensor::uninit([count, width]);
                let out = RowWriter::new(&mut dnormal);
                product_serial(first_rows(&dbefore_rows, count), &w1, |mut tile| {
                    // SAFETY: the rows of this block.
                    unsafe { out.write_tile(0, &mut tile) };
                });
                drop(dbefore_rows);
                // SAFETY: each block owns its rows.
                unsafe { back.rows(block, dnormal.data(), Some(&normal)) };
            });
        }
        drop((w1, w2, before, dy));
        second.branch_gradients(pass, gamma, &dbranch, || hidden);
        first.gradients(pass, &dbefore, || normal);
    })
}
