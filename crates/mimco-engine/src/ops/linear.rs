//! y = act(x Wᵀ + b), and the end of a residual branch, y = r + s (x Wᵀ + b); what follows the product is done to each of its tiles while it is
//! in cache.
//!
//! x [rows, inputs], W [outputs, inputs] as PyTorch keeps it, b `[outputs]`, y [rows, outputs]. s is one number an image: 1, or drop path's 0
//! or 1 / (1 - rate). Products are in the parameters' precision; y of the first form is in x's, of the second in f32.

use super::store::Rows;
use super::{DropPath, check_offsets};
use crate::cpu::product::{Number, Operand, PANEL, Panels, Tile, Values, product, product_in_parts};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::{gelu, gelu_derivative, wide};
use crate::{Backpass, ParameterId, Tape, Tensor, Var};

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
        let layer = Layer { weight, bias };
        let wants = layer.wants_gradient(self, &[x]);
        let precision = x.value.precision();
        let shape = [x.value.rows(), self.parameters().entry(weight).shape[0]];
        let mut y = Tensor::stale_in(precision, shape);
        // The way back needs x Wᵀ + b as it was before the activation.
        let mut before = (wants && activation == Activation::Gelu).then(|| Tensor::stale_in(precision, shape));
        {
            let (y, before) = (Rows::of(&mut y), before.as_mut().map(Rows::of));
            layer.forward(
                self,
                &x.value,
                #[inline(always)]
                |row, column, values: &mut [f32]| {
                    // SAFETY: a part of one tile; tiles do not overlap.
                    unsafe {
                        if let Some(before) = &before {
                            before.put(row, column, values);
                        }
                        if activation == Activation::Gelu {
                            values.iter_mut().for_each(|y| *y = gelu(*y));
                        }
                        y.put(row, column, values);
                    }
                },
            );
        }
        if !wants {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |mut dy, pass| {
            if let Some(before) = &before {
                through_gelu(&mut dy, before);
            }
            layer.backward(pass, &dy, &x);
        })
    }

    /// y = r + s (x Wᵀ + b): residual r [rows, outputs], x [rows, inputs] -> [rows, outputs].
    pub fn linear_residual(
        &mut self,
        residual: &Var,
        x: &Var,
        weight: ParameterId,
        bias: Option<ParameterId>,
        drop_path: Option<DropPath>,
    ) -> Var {
        let layer = Layer { weight, bias };
        let mut y = Tensor::stale(residual.value.dims());
        let (rows, width) = (y.rows(), y.width());
        assert!(rows == x.value.rows() && width == self.parameters().entry(weight).shape[0], "a branch of another size");
        if let Some(drop) = &drop_path {
            check_offsets(&drop.offsets, rows);
        }
        {
            let (r, y) = (residual.value.data(), Rows::of(&mut y));
            layer.forward(
                self,
                &x.value,
                #[inline(always)]
                |row, column, values: &mut [f32]| {
                    let r = &r[row * width + column..][..values.len()];
                    let s = drop_path.as_ref().map_or(1.0, |drop| drop.scale_of_row(row));
                    values.iter_mut().zip(r).for_each(|(y, r)| *y = s.mul_add(*y, *r));
                    // SAFETY: a part of one tile; tiles do not overlap.
                    unsafe { y.put(row, column, values) };
                },
            );
        }
        if !layer.wants_gradient(self, &[residual, x]) {
            return Var::constant(y);
        }
        let (residual, x) = (residual.node(), x.clone());
        self.record(y, move |dy, pass| {
            match &drop_path {
                None => layer.backward(pass, &dy, &x),
                Some(drop) => layer.backward(pass, &drop.scaled(&dy, width), &x),
            }
            pass.add(residual, dy);
        })
    }
}

#[derive(Clone, Copy)]
struct Layer {
    weight: ParameterId,
    bias: Option<ParameterId>,
}

impl Layer {
    fn wants_gradient(&self, tape: &Tape<'_>, inputs: &[&Var]) -> bool {
        tape.wants_gradient(inputs, &[self.weight, self.bias.unwrap_or(self.weight)])
    }

    /// Calls `finish(row, column, values)` for every part of a row of x Wᵀ + b that lies in one tile.
    fn forward(&self, tape: &Tape<'_>, x: &Tensor, finish: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let parameters = tape.parameters();
        let panels = parameters.panels_t(self.weight);
        assert_eq!(panels.inner(), x.width(), "{}: width", parameters.entry(self.weight).name);
        let bias = self.bias.map(|b| parameters.get(b));
        product(x.operand(), panels, |mut tile| {
            wide(
                #[inline(always)]
                || {
                    let mut b = [0.0; PANEL];
                    if let Some(bias) = bias {
                        b[..tile.columns].copy_from_slice(&bias[tile.column..][..tile.columns]);
                    }
                    let (first, column) = (tile.row, tile.column);
                    for (i, values) in tile.rows().enumerate() {
                        values.iter_mut().zip(&b).for_each(|(y, b)| *y += b);
                        finish(first + i, column, values);
                    }
                },
            );
        });
    }

    /// dW += dyᵀ x, db += Σ dy, dx = dy W.
    fn backward(&self, pass: &mut Backpass<'_>, dy: &Tensor, x: &Var) {
        let precision = pass.parameters().precision();
        let (rows, inputs, outputs) = (x.value.rows(), x.value.width(), pass.parameters().entry(self.weight).shape[0]);
        let d = Operand::new(dy.values(), rows, outputs);
        if let Some(dw) = pass.gradient(self.weight) {
            let dw = Parts::new(dw);
            product_in_parts(d.t(), &Panels::new(x.value.operand(), precision), |tile| add_tile(&dw, inputs, tile));
        }
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            match dy.values() {
                Values::F32(dy) => add_column_sums(db, dy),
                Values::Bf16(dy) => add_column_sums(db, dy),
            }
        }
        if x.node().is_some() {
            let mut dx = Tensor::stale_in(x.value.precision(), x.value.dims());
            {
                let dx = Rows::of(&mut dx);
                product(d, pass.parameters().panels(self.weight), |mut tile| {
                    wide(
                        #[inline(always)]
                        || {
                            let (first, column) = (tile.row, tile.column);
                            // SAFETY: tiles do not overlap.
                            tile.rows().enumerate().for_each(|(i, values)| unsafe { dx.put(first + i, column, values) });
                        },
                    );
                });
            }
            pass.add(x.node(), dx);
        }
    }
}

/// sum += tile, where the sum has rows of `width`.
fn add_tile(sum: &Parts<'_, f32>, width: usize, mut tile: Tile<'_>) {
    wide(
        #[inline(always)]
        || {
            let (first, column) = (tile.row, tile.column);
            for (i, values) in tile.rows().enumerate() {
                // SAFETY: tiles do not overlap, and parts of one tile come one after the other.
                let sum = unsafe { sum.part((first + i) * width + column, values.len()) };
                sum.iter_mut().zip(values).for_each(|(s, v)| *s += *v);
            }
        },
    );
}

/// dy *= gelu'(before), in place.
fn through_gelu(dy: &mut Tensor, before: &Tensor) {
    fn run<T: Number>(dy: &mut [T], before: &[T]) {
        const CHUNK: usize = 8 * 1024;
        crate::cpu::threads::for_each_chunk(dy, CHUNK, |i, dy| {
            let before = &before[i * CHUNK..][..dy.len()];
            wide(
                #[inline(always)]
                || dy.iter_mut().zip(before).for_each(|(dy, x)| *dy = T::of(dy.single() * gelu_derivative(x.single()))),
            );
        });
    }
    use crate::tensor::ValuesMut;
    match (dy.values_mut(), before.values()) {
        (ValuesMut::F32(dy), Values::F32(before)) => run(dy, before),
        (ValuesMut::Bf16(dy), Values::Bf16(before)) => run(dy, before),
        _ => unreachable!("a gradient has the precision of its value"),
    }
}

/// sums += Σ over the rows of x [rows, sums.len()]; each block of columns goes down the rows in order.
fn add_column_sums<T: Number>(sums: &mut [f32], x: &[T]) {
    const BLOCK: usize = 64;
    let width = sums.len();
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
                    total.iter_mut().zip(row).for_each(|(t, v)| *t += v.single());
                }
            },
        );
        // SAFETY: blocks of columns do not overlap.
        let sums = unsafe { parts.part(first, columns) };
        sums.iter_mut().zip(total).for_each(|(s, t)| *s += t);
    });
}
