//! An affine map's parameters, and its three products: y = x Wᵀ + b, dx = dy W, dW = dyᵀ x. What comes before or after a product is done while
//! its numbers are in cache: each writes what the next one reads, in the form in which that reads it.

use super::store::{ColumnSums, Rows};
use super::{DropPath, check_offsets};
use crate::cpu::buffer::Buffer;
use crate::cpu::number::Number;
use crate::cpu::product::{Left, PANEL, Panels, Precision, Tile, Values, product, product_in_parts};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::{gelu, gelu_and_derivative, wide};
use crate::{Backpass, ParameterId, Tape, Tensor};

/// Rows a block where no product cuts them.
const ROWS: usize = 64;

/// What follows the affine map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU, the exact one (erf).
    Gelu,
}

/// An affine map's parameters.
#[derive(Clone, Copy)]
pub struct Layer {
    /// [outputs, inputs]
    pub weight: ParameterId,
    /// `[outputs]`
    pub bias: Option<ParameterId>,
}

/// The gradient of a layer's outputs in the products' precision: as dx = dy W takes it and as dW = dyᵀ x does.
pub(super) struct Outgoing {
    pub rows: Tensor,
    pub panels: Panels,
}

impl Layer {
    /// Those whose gradient is asked for.
    pub(super) fn parameters(&self) -> [ParameterId; 2] {
        [self.weight, self.bias.unwrap_or(self.weight)]
    }

    /// Room for the outputs and, where the way back needs them, for what stands before the activation.
    pub(super) fn stale_outputs(&self, tape: &Tape<'_>, x: &Tensor, precision: Precision, before: bool) -> (Tensor, Option<Tensor>) {
        let stale = || Tensor::stale_in(precision, [x.rows(), tape.parameters().entry(self.weight).shape[0]]);
        (stale(), before.then(stale))
    }

    /// y = act(x Wᵀ + b), and x Wᵀ + b into `before`.
    pub(super) fn activated(&self, tape: &Tape<'_>, x: &Tensor, activation: Activation, y: &mut Tensor, before: Option<&mut Tensor>) {
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
    pub(super) fn onto(&self, tape: &Tape<'_>, residual: &Tensor, x: &Tensor, drop_path: Option<&DropPath>) -> Tensor {
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

    /// s dy, times GELU's derivative where `before` is what it was applied to, for both products; db += its columns' sums.
    pub(super) fn outgoing(
        &self,
        pass: &mut Backpass<'_>,
        dy: &Tensor,
        drop_path: Option<&DropPath>,
        before: Option<&Tensor>,
    ) -> Outgoing {
        let precision = pass.parameters().precision();
        let width = pass.parameters().entry(self.weight).shape[0];
        let count = dy.elements() / width.max(1);
        let as_it_is = drop_path.is_none() && before.is_none() && dy.precision() == precision;
        let mut rows = if as_it_is { dy.reshape([count, width]) } else { Tensor::stale_in(precision, [count, width]) };
        let mut panels = Panels::stale(count, width, precision);
        let mut sums = ColumnSums::new(count, width);
        {
            let rows = (!as_it_is).then(|| Rows::of(&mut rows));
            let (panels, sums) = (panels.rows_mut(), sums.parts());
            parallel(count.div_ceil(ROWS), |block| {
                let mut pair = [Buffer::stale(width), Buffer::stale(width)];
                // SAFETY: a block owns its rows, an even number, and their sums.
                let sums = unsafe { sums.of_rows(block * ROWS, 0, width) };
                for first in (block * ROWS..((block + 1) * ROWS).min(count)).step_by(2) {
                    wide(
                        #[inline(always)]
                        || {
                            for (row, values) in (first..count).zip(&mut pair) {
                                match dy.values() {
                                    Values::F32(dy) => load(values, &dy[row * width..][..width]),
                                    Values::Bf16(dy) => load(values, &dy[row * width..][..width]),
                                }
                                if let Some(drop) = drop_path {
                                    let s = drop.scale_of_row(row);
                                    values.iter_mut().for_each(|v| *v *= s);
                                }
                                match before.map(Tensor::values) {
                                    None => {}
                                    Some(Values::F32(before)) => times_derivative(values, &before[row * width..][..width]),
                                    Some(Values::Bf16(before)) => times_derivative(values, &before[row * width..][..width]),
                                }
                                sums.iter_mut().zip(&values[..]).for_each(|(s, v)| *s += v);
                                if let Some(rows) = &rows {
                                    // SAFETY: as above.
                                    unsafe { rows.put(row, 0, values) };
                                }
                            }
                            // SAFETY: as above.
                            unsafe { panels.put(first, 0, &pair[0], &pair[1]) };
                        },
                    );
                }
            });
        }
        self.bias_gradient(pass, sums);
        Outgoing { rows, panels }
    }

    /// db += the columns' sums of dy.
    fn bias_gradient(&self, pass: &mut Backpass<'_>, sums: ColumnSums) {
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            sums.add_to(db);
        }
    }

    /// dW += dyᵀ x.
    pub(super) fn weight_gradient(&self, pass: &mut Backpass<'_>, dy: &Panels, x: &Panels) {
        let Some(dw) = pass.gradient(self.weight) else { return };
        let inputs = x.columns();
        assert_eq!(dw.len(), dy.columns() * inputs, "a gradient of another size");
        let dw = Parts::new(dw);
        product_in_parts(Left::Columns(dy), x, |mut tile| {
            wide(
                #[inline(always)]
                || {
                    let (first, column) = (tile.row, tile.column);
                    for (i, values) in tile.rows().enumerate() {
                        // SAFETY: tiles do not overlap, and parts of one tile come one after the other.
                        let sum = unsafe { dw.part((first + i) * inputs + column, values.len()) };
                        sum.iter_mut().zip(values).for_each(|(s, v)| *s += *v);
                    }
                },
            );
        });
    }

    /// dx = dy W, in x's precision. W is packed for this once: a step asks for it a single time.
    pub(super) fn input_gradient(&self, pass: &Backpass<'_>, dy: &Tensor, precision: Precision) -> Tensor {
        let mut dx = Tensor::stale_in(precision, [dy.rows(), self.inputs(pass)]);
        {
            let dx = Rows::of(&mut dx);
            self.times_weights(
                pass,
                dy,
                #[inline(always)]
                |mut tile| {
                    let (first, column) = (tile.row, tile.column);
                    for (i, values) in tile.rows().enumerate() {
                        // SAFETY: tiles do not overlap.
                        unsafe { dx.put(first + i, column, values) };
                    }
                },
            );
        }
        dx
    }

    /// Where this layer's input is gelu(`before`), that input again, in panels, and dy W times GELU's derivative, for both products of the
    /// `previous` layer, whose db gets its columns' sums.
    pub(super) fn input_gradient_through_gelu(
        &self,
        pass: &mut Backpass<'_>,
        dy: &Tensor,
        before: &Tensor,
        previous: &Layer,
    ) -> (Panels, Outgoing) {
        let precision = pass.parameters().precision();
        let (count, inputs) = (dy.rows(), self.inputs(pass));
        let mut hidden = Panels::stale(count, inputs, precision);
        let mut dx = Outgoing { rows: Tensor::stale_in(precision, [count, inputs]), panels: Panels::stale(count, inputs, precision) };
        let mut sums = ColumnSums::new(count, inputs);
        {
            let (hidden, panels, rows, sums) = (hidden.rows_mut(), dx.panels.rows_mut(), Rows::of(&mut dx.rows), sums.parts());
            self.times_weights(
                pass,
                dy,
                #[inline(always)]
                |mut tile| {
                    let (first, column) = (tile.row, tile.column);
                    // SAFETY: tiles do not overlap.
                    let sums = unsafe { sums.of_rows(first, column, tile.columns) };
                    for (i, mut pair) in tile.pairs().enumerate() {
                        let row = first + 2 * i;
                        let mut activated = [[0.0; PANEL]; 2];
                        for (i, (values, activated)) in pair.iter_mut().zip(&mut activated).enumerate() {
                            let (place, activated) = ((row + i) * inputs + column, &mut activated[..values.len()]);
                            match before.values() {
                                _ if values.is_empty() => {}
                                Values::F32(before) => through_gelu(values, &before[place..], activated),
                                Values::Bf16(before) => through_gelu(values, &before[place..], activated),
                            }
                            sums.iter_mut().zip(&values[..]).for_each(|(s, v)| *s += v);
                        }
                        let columns = pair[0].len();
                        // SAFETY: tiles do not overlap, and begin at even rows.
                        unsafe {
                            for (i, values) in pair.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
                                rows.put(row + i, column, values);
                            }
                            panels.put(row, column, pair[0], pair[1]);
                            hidden.put(row, column, &activated[0][..columns], &activated[1][..columns]);
                        }
                    }
                },
            );
        }
        previous.bias_gradient(pass, sums);
        (hidden, dx)
    }

    fn inputs(&self, pass: &Backpass<'_>) -> usize {
        let entry = pass.parameters().entry(self.weight);
        entry.range.len() / entry.shape[0].max(1)
    }

    /// `finish` sees every tile of dy W.
    #[inline(always)]
    fn times_weights(&self, pass: &Backpass<'_>, dy: &Tensor, finish: impl Fn(Tile<'_>) + Sync) {
        let parameters = pass.parameters();
        let panels = Panels::new(parameters.matrix(self.weight), parameters.precision());
        product(dy.operand(), &panels, |tile| {
            wide(
                #[inline(always)]
                || finish(tile),
            )
        });
    }
}

#[inline(always)]
fn load<T: Number>(out: &mut [f32], values: &[T]) {
    out.iter_mut().zip(values).for_each(|(o, v)| *o = v.single());
}

#[inline(always)]
fn times_derivative<T: Number>(values: &mut [f32], before: &[T]) {
    values.iter_mut().zip(before).for_each(|(d, x)| *d *= gelu_and_derivative(x.single()).1);
}

/// values *= gelu'(before), activated = gelu(before)
#[inline(always)]
fn through_gelu<T: Number>(values: &mut [f32], before: &[T], activated: &mut [f32]) {
    let before = &before[..values.len()];
    for ((d, x), a) in values.iter_mut().zip(before).zip(activated) {
        let (y, derivative) = gelu_and_derivative(x.single());
        *d *= derivative;
        *a = y;
    }
}
