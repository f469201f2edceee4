//! y = act(x Wᵀ + b), the activation applied to each block of the product while it is in cache.
//!
//! x [rows, inputs], W [outputs, inputs] as PyTorch keeps it, b `[outputs]`, y [rows, outputs].

use crate::cpu::matmul::{Matrix, matmul, matmul_serial};
use crate::cpu::threads::{Parts, for_each_chunk, parallel};
use crate::cpu::vector::{gelu, gelu_derivative, wide};
use crate::{ParameterId, Tape, Tensor, Var};

/// What follows the affine map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU, the exact one (erf).
    Gelu,
}

impl Tape<'_> {
    /// y = act(x Wᵀ + b): x [rows, inputs], weight [outputs, inputs], bias `[outputs]` -> [rows, outputs].
    pub fn linear(&mut self, x: &Var, weight: ParameterId, bias: Option<ParameterId>, activation: Activation) -> Var {
        let parameters = self.parameters();
        let (rows, inputs) = (x.value.rows(), x.value.width());
        let outputs = parameters.entry(weight).shape[0];
        assert_eq!(parameters.get(weight).len(), outputs * inputs, "{}: width", parameters.entry(weight).name);
        let w = Matrix::new(parameters.get(weight), outputs, inputs);
        let b = bias.map(|b| parameters.get(b));
        let wants = match bias {
            Some(bias) => self.wants_gradient(&[x], &[weight, bias]),
            None => self.wants_gradient(&[x], &[weight]),
        };

        let a = Matrix::new(x.value.data(), rows, inputs);
        let mut y = Tensor::stale([rows, outputs]);
        if activation == Activation::None || !wants {
            matmul(y.data_mut(), a, w.t(), false, |_, y| affine_epilogue(y, b, outputs, activation));
            if !wants {
                return Var::constant(y);
            }
            return self.record_linear(x, weight, bias, y, None);
        }
        // The way back needs x Wᵀ + b as it was before the activation.
        let mut before = Tensor::stale([rows, outputs]);
        {
            let y_parts = Parts::new(y.data_mut());
            matmul(before.data_mut(), a, w.t(), false, |row, before| {
                affine_epilogue(before, b, outputs, Activation::None);
                // SAFETY: blocks of rows do not overlap.
                let y = unsafe { y_parts.part(row * outputs, before.len()) };
                wide(
                    #[inline(always)]
                    || y.iter_mut().zip(&*before).for_each(|(y, &x)| *y = gelu(x)),
                );
            });
        }
        self.record_linear(x, weight, bias, y, Some(before))
    }

    fn record_linear(&mut self, x: &Var, weight: ParameterId, bias: Option<ParameterId>, y: Tensor, before: Option<Tensor>) -> Var {
        let (rows, inputs, outputs) = (x.value.rows(), x.value.width(), y.width());
        let x = x.clone();
        self.record(y, move |gradient, pass| {
            let mut dy = gradient; // [rows, outputs]
            if let Some(before) = before {
                const CHUNK: usize = 8 * 1024;
                let before = before.data();
                for_each_chunk(dy.data_mut(), CHUNK, |i, dy| {
                    let before = &before[i * CHUNK..][..dy.len()];
                    wide(
                        #[inline(always)]
                        || dy.iter_mut().zip(before).for_each(|(dy, &x)| *dy *= gelu_derivative(x)),
                    );
                });
            }
            let d = Matrix::new(dy.data(), rows, outputs);
            if let Some(dw) = pass.gradient(weight) {
                // dW += dyᵀ x, a long product over the rows into few blocks of outputs.
                const BLOCK: usize = 64;
                let block = BLOCK.min(outputs);
                let x = Matrix::new(x.value.data(), rows, inputs);
                for_each_chunk(dw, block * inputs, |i, dw| {
                    let columns = dw.len() / inputs;
                    matmul_serial(dw, d.t().rows_from(i * block, columns), x, true);
                });
            }
            if let Some(db) = bias.and_then(|b| pass.gradient(b)) {
                add_column_sums(db, dy.data(), outputs);
            }
            if x.node().is_some() {
                let mut dx = Tensor::stale(x.value.dims());
                let w = Matrix::new(pass.parameter(weight), outputs, inputs);
                matmul(dx.data_mut(), d, w, false, |_, _| {});
                pass.add(x.node(), dx);
            }
        })
    }
}

fn affine_epilogue(y: &mut [f32], bias: Option<&[f32]>, outputs: usize, activation: Activation) {
    wide(
        #[inline(always)]
        || {
            if let Some(bias) = bias {
                for row in y.chunks_exact_mut(outputs) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
            if activation == Activation::Gelu {
                y.iter_mut().for_each(|y| *y = gelu(*y));
            }
        },
    );
}

/// sums += Σ over the rows of x [rows, width]; each block of columns goes down the rows in order.
pub(super) fn add_column_sums(sums: &mut [f32], x: &[f32], width: usize) {
    const BLOCK: usize = 64;
    let parts = Parts::new(sums);
    parallel(width.div_ceil(BLOCK), |block| {
        let first = block * BLOCK;
        let columns = BLOCK.min(width - first);
        let mut total = [0.0f32; BLOCK];
        wide(
            #[inline(always)]
            || {
                for row in x.chunks_exact(width) {
                    let row = &row[first..first + columns];
                    total.iter_mut().zip(row).for_each(|(t, v)| *t += v);
                }
            },
        );
        // SAFETY: blocks of columns do not overlap.
        let sums = unsafe { parts.part(first, columns) };
        sums.iter_mut().zip(total).for_each(|(s, t)| *s += t);
    });
}
