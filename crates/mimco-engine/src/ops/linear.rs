//! Affine maps y = act(x Wᵀ + b), alone and as the parts of a transformer's branches: the norm before, the residual sum after, the whole MLP.
//! What follows a product is done to each of its tiles while it is in cache.
//!
//! x [rows, inputs], W [outputs, inputs] as PyTorch keeps it, b `[outputs]`, y [rows, outputs]. s is one number an image: 1, or drop path's 0
//! or 1 / (1 - rate). Products are in the parameters' precision, residual sums in f32.

use super::store::Rows;
use super::{DropPath, Norm, check_offsets};
use crate::cpu::product::{Number, Operand, PANEL, Panels, Precision, Tile, Values, product, product_in_parts};
use crate::cpu::threads::{Parts, for_each_chunk, parallel};
use crate::cpu::vector::{gelu, gelu_derivative, wide};
use crate::tensor::ValuesMut;
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
    /// y = act(x Wᵀ + b): x [rows, inputs] -> [rows, outputs], in x's precision.
    pub fn linear(&mut self, x: &Var, layer: Layer, activation: Activation) -> Var {
        let wants = self.wants_gradient(&[x], &layer.parameters());
        let (mut y, mut before) = layer.stale_outputs(self, &x.value, x.value.precision(), wants && activation == Activation::Gelu);
        layer.activated(self, &x.value, activation, &mut y, before.as_mut());
        if !wants {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |mut dy, pass| {
            if let Some(before) = &before {
                through_gelu(&mut dy, before);
            }
            layer.weight_gradient(pass, &dy, &x.value);
            layer.input_gradient(pass, &dy, &x);
        })
    }

    /// The beginning of a branch, y = norm(x) Wᵀ + b: x [rows, inputs] in f32 -> [rows, outputs] in the parameters' precision. What the norm
    /// makes of x is worked out again on the way back: that costs less than the memory it would fill.
    pub fn norm_linear(&mut self, x: &Var, norm: Norm, layer: Layer) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let mut statistics = Tensor::stale([x.value.rows(), 2]);
        let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
        let (mut y, _) = layer.stale_outputs(self, &x.value, precision, false);
        layer.activated(self, &normal, Activation::None, &mut y, None);
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[x], &[norm.weight, norm.bias, weight, bias]) {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
            layer.weight_gradient(pass, &dy, &normal);
            let dnormal = layer.times_weights(pass, &dy, precision, None);
            norm.backward(pass, &x, &statistics, &dnormal);
        })
    }

    /// The end of a branch, y = r + s (x Wᵀ + b): residual r [rows, outputs], x [rows, inputs] -> [rows, outputs].
    pub fn linear_residual(&mut self, residual: &Var, x: &Var, layer: Layer, drop_path: Option<DropPath>) -> Var {
        let y = layer.onto(self, &residual.value, &x.value, drop_path.as_ref());
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[residual, x], &[weight, bias]) {
            return Var::constant(y);
        }
        let (residual, x, width) = (residual.node(), x.clone(), y.width());
        self.record(y, move |dy, pass| {
            let scaled = drop_path.as_ref().map(|drop| drop.scaled(&dy, width));
            let branch = scaled.as_ref().unwrap_or(&dy);
            layer.weight_gradient(pass, branch, &x.value);
            layer.input_gradient(pass, branch, &x);
            pass.add(residual, dy);
        })
    }

    /// A transformer's second branch, y = x + s (gelu(norm(x) W₁ᵀ + b₁) W₂ᵀ + b₂): x [rows, width] -> [rows, width]. Of the hidden rows the way
    /// back keeps what stands before the activation alone.
    pub fn mlp(&mut self, x: &Var, norm: Norm, [first, second]: [Layer; 2], drop_path: Option<DropPath>) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let trained = [[norm.weight, norm.bias], first.parameters(), second.parameters()].concat();
        let wants = self.wants_gradient(&[x], &trained);
        let mut statistics = Tensor::stale([x.value.rows(), 2]);
        let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
        let (mut hidden, mut before) = first.stale_outputs(self, &x.value, precision, wants);
        first.activated(self, &normal, Activation::Gelu, &mut hidden, before.as_mut());
        drop(normal);
        let y = second.onto(self, &x.value, &hidden, drop_path.as_ref());
        let (true, Some(before)) = (wants, before) else { return Var::constant(y) };
        let (x, width) = (x.clone(), y.width());
        self.record(y, move |dy, pass| {
            let scaled = drop_path.as_ref().map(|drop| drop.scaled(&dy, width));
            let branch = scaled.as_ref().unwrap_or(&dy);
            let mut hidden = Tensor::stale_in(precision, before.dims());
            map(
                &mut hidden,
                &before,
                #[inline(always)]
                |_, before| gelu(before),
            );
            second.weight_gradient(pass, branch, &hidden);
            drop(hidden);
            let dbefore = second.times_weights(pass, branch, precision, Some(&before));
            drop((scaled, before));
            pass.add(x.node(), dy);
            let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
            first.weight_gradient(pass, &dbefore, &normal);
            drop(normal);
            let dnormal = first.times_weights(pass, &dbefore, precision, None);
            norm.backward(pass, &x, &statistics, &dnormal);
        })
    }
}

/// An affine map's parameters.
#[derive(Clone, Copy)]
pub struct Layer {
    /// [outputs, inputs]
    pub weight: ParameterId,
    /// `[outputs]`
    pub bias: Option<ParameterId>,
}

impl Layer {
    /// Those whose gradient is asked for.
    fn parameters(&self) -> [ParameterId; 2] {
        [self.weight, self.bias.unwrap_or(self.weight)]
    }

    /// Room for the outputs and, where the way back needs them, for what stands before the activation.
    fn stale_outputs(&self, tape: &Tape<'_>, x: &Tensor, precision: Precision, before: bool) -> (Tensor, Option<Tensor>) {
        let stale = || Tensor::stale_in(precision, [x.rows(), tape.parameters().entry(self.weight).shape[0]]);
        (stale(), before.then(stale))
    }

    /// y = act(x Wᵀ + b), and x Wᵀ + b into `before`.
    fn activated(&self, tape: &Tape<'_>, x: &Tensor, activation: Activation, y: &mut Tensor, before: Option<&mut Tensor>) {
        let (y, before) = (Rows::of(y), before.map(Rows::of));
        self.forward(
            tape,
            x,
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

    /// r + s (x Wᵀ + b).
    fn onto(&self, tape: &Tape<'_>, residual: &Tensor, x: &Tensor, drop_path: Option<&DropPath>) -> Tensor {
        let mut y = Tensor::stale(residual.dims());
        let (rows, width) = (y.rows(), y.width());
        assert!(rows == x.rows() && width == tape.parameters().entry(self.weight).shape[0], "a branch of another size");
        if let Some(drop) = &drop_path {
            check_offsets(&drop.offsets, rows);
        }
        {
            let (r, y) = (residual.data(), Rows::of(&mut y));
            self.forward(
                tape,
                x,
                #[inline(always)]
                |row, column, values: &mut [f32]| {
                    let r = &r[row * width + column..][..values.len()];
                    let s = drop_path.map_or(1.0, |drop| drop.scale_of_row(row));
                    values.iter_mut().zip(r).for_each(|(y, r)| *y = s.mul_add(*y, *r));
                    // SAFETY: a part of one tile; tiles do not overlap.
                    unsafe { y.put(row, column, values) };
                },
            );
        }
        y
    }

    /// Calls `finish(row, column, values)` for every part of a row of x Wᵀ + b that lies in one tile.
    #[inline(always)]
    fn forward(&self, tape: &Tape<'_>, x: &Tensor, finish: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let parameters = tape.parameters();
        let panels = parameters.panels(self.weight);
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

    /// dW += dyᵀ x, db += Σ dy.
    fn weight_gradient(&self, pass: &mut Backpass<'_>, dy: &Tensor, x: &Tensor) {
        let precision = pass.parameters().precision();
        if let Some(dw) = pass.gradient(self.weight) {
            let inputs = x.width();
            let dy = Operand::new(dy.values(), x.rows(), dw.len() / inputs.max(1));
            let dw = Parts::new(dw);
            product_in_parts(dy.t(), &Panels::new(x.operand(), precision), |tile| add_tile(&dw, inputs, tile));
        }
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            match dy.values() {
                Values::F32(dy) => add_column_sums(db, dy),
                Values::Bf16(dy) => add_column_sums(db, dy),
            }
        }
    }

    /// dx = dy W where x gets a gradient.
    fn input_gradient(&self, pass: &mut Backpass<'_>, dy: &Tensor, x: &Var) {
        if x.node().is_some() {
            let dx = self.times_weights(pass, dy, x.value.precision(), None);
            pass.add(x.node(), dx);
        }
    }

    /// dy W, times the activation's derivative at `before`. W is packed for this once: a step asks for it a single time.
    fn times_weights(&self, pass: &Backpass<'_>, dy: &Tensor, precision: Precision, before: Option<&Tensor>) -> Tensor {
        let parameters = pass.parameters();
        let panels = Panels::new(parameters.matrix(self.weight), parameters.precision());
        let (outputs, inputs) = (panels.inner(), panels.columns());
        let dy = Operand::new(dy.values(), dy.elements() / outputs.max(1), outputs);
        let mut dx = Tensor::stale_in(precision, [dy.rows(), inputs]);
        {
            let dx = Rows::of(&mut dx);
            product(dy, &panels, |mut tile| {
                wide(
                    #[inline(always)]
                    || {
                        let (first, column) = (tile.row, tile.column);
                        for (i, values) in tile.rows().enumerate() {
                            let place = (first + i) * inputs + column..(first + i) * inputs + column + values.len();
                            match before.map(Tensor::values) {
                                None => {}
                                Some(Values::F32(before)) => times_derivative(values, &before[place]),
                                Some(Values::Bf16(before)) => times_derivative(values, &before[place]),
                            }
                            // SAFETY: tiles do not overlap.
                            unsafe { dx.put(first + i, column, values) };
                        }
                    },
                );
            });
        }
        dx
    }
}

#[inline(always)]
fn times_derivative<T: Number>(values: &mut [f32], before: &[T]) {
    values.iter_mut().zip(before).for_each(|(d, x)| *d *= gelu_derivative(x.single()));
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
    map(
        dy,
        before,
        #[inline(always)]
        |dy, before| dy * gelu_derivative(before),
    );
}

/// y = f(y, x), element by element.
fn map(y: &mut Tensor, x: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) {
    #[inline(always)]
    fn run<A: Number, B: Number>(y: &mut [A], x: &[B], f: impl Fn(f32, f32) -> f32 + Sync) {
        const CHUNK: usize = 8 * 1024;
        for_each_chunk(y, CHUNK, |i, y| {
            let x = &x[i * CHUNK..][..y.len()];
            wide(
                #[inline(always)]
                || y.iter_mut().zip(x).for_each(|(y, x)| *y = A::of(f(y.single(), x.single()))),
            );
        });
    }
    match (y.values_mut(), x.values()) {
        (ValuesMut::F32(y), Values::F32(x)) => run(y, x, f),
        (ValuesMut::F32(y), Values::Bf16(x)) => run(y, x, f),
        (ValuesMut::Bf16(y), Values::F32(x)) => run(y, x, f),
        (ValuesMut::Bf16(y), Values::Bf16(x)) => run(y, x, f),
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
