//! An affine map's parameters, and its three products: y = x Wᵀ + b, dx = dy W, dW = dyᵀ x. What comes before or after a product is done while
//! its numbers are in cache: each writes what the next one reads, in the form in which that reads it.

use crate::ops::support::residual::Branch;
use crate::ops::support::cpu::rows::{ColumnParts, ColumnSums, Rows};
use crate::cpu::buffer::Buffer;
use crate::element::Number;
use crate::cpu::matmul::{Left, Operand, PANEL, PanelRows, Panels, Precision, Tile, Values, product_in_parts, product_serial};
use crate::cpu::threads::Parts;
use crate::cpu::vector::{combine, gelu_and_derivative, wide};
use crate::{Backpass, ParameterId, Parameters, Tensor};
use std::ops::Range;

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

/// Room for some rows as a product's left factor, which reads whole strips of them.
pub(in crate::ops) fn stale_rows(precision: Precision, rows: usize, width: usize) -> Tensor {
    Tensor::stale_in(precision, [rows.next_multiple_of(16), width])
}

/// The first rows of [`stale_rows`].
pub(in crate::ops) fn first_rows(tensor: &Tensor, rows: usize) -> Operand<'_> {
    Operand::new(tensor.values(), rows, tensor.width())
}

/// Some rows of a tensor.
pub(in crate::ops) fn rows_of(tensor: &Tensor, rows: Range<usize>) -> Operand<'_> {
    let width = tensor.width();
    Operand::new(tensor.values().from(rows.start * width), rows.len(), width)
}

impl Layer {
    /// Those whose gradient is asked for.
    pub(in crate::ops) fn parameters(&self) -> [ParameterId; 2] {
        [self.weight, self.bias.unwrap_or(self.weight)]
    }

    /// [outputs, inputs]
    pub(in crate::ops) fn sizes(&self, parameters: &Parameters) -> [usize; 2] {
        let entry = parameters.entry(self.weight);
        [entry.shape[0], entry.range.len() / entry.shape[0].max(1)]
    }

    /// Adds the bias to a tile of x Wᵀ and calls `finish(row, column, values)` for each of its rows.
    #[inline(always)]
    pub(in crate::ops) fn finish(&self, parameters: &Parameters, mut tile: Tile<'_>, finish: impl Fn(usize, usize, &mut [f32])) {
        let mut b = [0.0; PANEL];
        if let Some(bias) = self.bias {
            b[..tile.columns].copy_from_slice(&parameters.get(bias)[tile.column..][..tile.columns]);
        }
        tile.each_row(
            #[inline(always)]
            |row, column, values| {
                combine(values, &b[..values.len()], |y, b| y + b);
                finish(row, column, values);
            },
        );
    }

    /// `finish(row, column, values)` for every part of a row of x Wᵀ + b, in this thread; `w` is Wᵀ in panels.
    #[inline(always)]
    pub(in crate::ops) fn forward(&self, parameters: &Parameters, w: &Panels, x: Operand<'_>, finish: impl Fn(usize, usize, &mut [f32])) {
        product_serial(x, w, |tile| {
            self.finish(
                parameters,
                tile,
                // Not `&finish`, whose call would not be inlined.
                #[inline(always)]
                |row, column, values| finish(row, column, values),
            );
        });
    }

    /// dW += dyᵀ x and db += the columns' sums of dy, where they are trained.
    pub(in crate::ops) fn gradients(&self, pass: &mut Backpass<'_>, dy: &Outgoing, x: impl FnOnce() -> Panels) {
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            dy.sums.add_to(db);
        }
        let Some(dw) = pass.gradient(self.weight) else { return };
        let x = x();
        let inputs = x.columns();
        assert_eq!(dw.len(), dy.panels.columns() * inputs, "a gradient of another size");
        let dw = Parts::new(dw);
        product_in_parts(Left::Columns(&dy.panels), &x, |mut tile| {
            tile.each_row(
                #[inline(always)]
                |row, column, values| {
                    // SAFETY: tiles do not overlap, and parts of one tile come one after the other.
                    let sum = unsafe { dw.part(row * inputs + column, values.len()) };
                    combine(sum, values, |s, v| s + v);
                },
            );
        });
    }

    /// The same for a layer y = γ ⊙ (x Wᵀ + b), from D = s dy before γ. With G = Dᵀ x and g the columns' sums of D: dW += γ G, db += γ g, and
    /// dγ_j += G_j · W_j + g_j b_j, so that x Wᵀ + b need not be kept.
    pub(in crate::ops) fn scaled_gradients(&self, pass: &mut Backpass<'_>, gamma: ParameterId, d: &Outgoing, x: impl FnOnce() -> Panels) {
        let (weight, bias) = (pass.parameter(self.weight), self.bias.map(|bias| pass.parameter(bias)));
        let (scale, outputs) = (pass.parameter(gamma), d.panels.columns());
        let mut sums = vec![0.0; outputs];
        d.sums.add_to(&mut sums);
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            db.iter_mut().zip(&sums).zip(scale).for_each(|((db, g), s)| *db += s * g);
        }
        let x = x();
        let (inputs, panels) = (x.columns(), x.columns().div_ceil(PANEL));
        // A row's products with W by panel, each one thread's: [outputs, panels]
        let mut products = Tensor::zeros([outputs, panels]);
        {
            let products = Parts::new(products.data_mut());
            let dw = pass.gradient(self.weight).map(Parts::new);
            product_in_parts(Left::Columns(&d.panels), &x, |mut tile| {
                tile.each_row(|row, column, values| {
                    let place = row * inputs + column;
                    // SAFETY: tiles do not overlap, and parts of one tile come one after the other.
                    unsafe {
                        let product = &mut products.part(row * panels + column / PANEL, 1)[0];
                        *product += values.iter().zip(&weight[place..]).map(|(v, w)| v * w).sum::<f32>();
                        if let Some(dw) = &dw {
                            dw.part(place, values.len()).iter_mut().zip(&*values).for_each(|(dw, v)| *dw += scale[row] * v);
                        }
                    }
                });
            });
        }
        let Some(dgamma) = pass.gradient(gamma) else { return };
        for (row, (dgamma, products)) in dgamma.iter_mut().zip(products.data().chunks_exact(panels.max(1))).enumerate() {
            *dgamma += products.iter().sum::<f32>() + bias.map_or(0.0, |bias| sums[row] * bias[row]);
        }
    }
}

/// The gradient of a layer's outputs as dW = dyᵀ x and db take it, while it is worked out.
pub(in crate::ops) struct Outgoing {
    pub panels: Panels,
    pub sums: ColumnSums,
}

/// The same while several threads are at it.
pub(in crate::ops) struct OutgoingRows<'a> {
    panels: PanelRows<'a>,
    sums: ColumnParts<'a>,
    width: usize,
}

impl Outgoing {
    pub fn stale(rows: usize, width: usize, precision: Precision) -> Outgoing {
        Outgoing { panels: Panels::stale(rows, width, precision), sums: ColumnSums::new(rows, width) }
    }

    pub fn rows_mut(&mut self) -> OutgoingRows<'_> {
        let width = self.panels.columns();
        OutgoingRows { panels: self.panels.rows_mut(), sums: self.sums.parts(), width }
    }
}

impl OutgoingRows<'_> {
    /// Some of a branch's rows of s dy (for `out` times γ), times GELU's derivative where `before` is what it was applied to; `out` gets them from row `first` on, as
    /// dx = dy W takes them.
    ///
    /// # Safety
    /// Nobody else may be at the same rows, which begin at a multiple of 32.
    pub unsafe fn of(
        &self,
        block: Range<usize>,
        (dy, branch): (&Tensor, Branch<'_>),
        before: Option<&Tensor>,
        (out, first): (&Rows<'_>, usize),
    ) {
        let width = self.width;
        let mut pair = [Buffer::stale(width), Buffer::stale(width)];
        let gamma = branch.gamma(0, width);
        let mut scaled = Buffer::stale(gamma.map_or(0, <[f32]>::len));
        // SAFETY: the caller's promise.
        let sums = unsafe { self.sums.of_rows(block.start, 0, width) };
        for upper in block.clone().step_by(2) {
            wide(
                #[inline(always)]
                || {
                    for (row, values) in (upper..block.end).zip(&mut pair) {
                        let place = branch.row(row) * width;
                        match dy.values() {
                            Values::F32(dy) => load(values, &dy[place..][..width]),
                            Values::Bf16(dy) => load(values, &dy[place..][..width]),
                        }
                        let s = branch.scale();
                        if s != 1.0 {
                            values.iter_mut().for_each(|v| *v *= s);
                        }
                        match before.map(Tensor::values) {
                            None => {}
                            Some(Values::F32(before)) => times_derivative(values, &before[row * width..][..width]),
                            Some(Values::Bf16(before)) => times_derivative(values, &before[row * width..][..width]),
                        }
                        sums.iter_mut().zip(&values[..]).for_each(|(s, v)| *s += v);
                        let values = match gamma {
                            None => &values[..],
                            Some(gamma) => {
                                scaled.iter_mut().zip(&values[..]).zip(gamma).for_each(|((s, v), g)| *s = v * g);
                                &scaled[..]
                            }
                        };
                        // SAFETY: the caller's promise.
                        unsafe { out.put(first + row - block.start, 0, values) };
                    }
                    // SAFETY: the caller's promise.
                    unsafe { self.panels.put(upper, 0, &pair[0], &pair[1]) };
                },
            );
        }
    }

    /// Of a layer whose outputs went through GELU: a tile of the gradient of its activations becomes that of its outputs, from what stood `before`
    /// the activation, [32-column sheet · rows + row, 32]; `hidden` gets the activations once more, `out` the block's rows as dx = dy W takes them.
    ///
    /// # Safety
    /// Nobody else may be at the same rows and columns of the block, which begins at a multiple of 32.
    #[inline(always)]
    pub unsafe fn through_gelu(&self, block: &Range<usize>, tile: &mut Tile<'_>, before: &Tensor, hidden: &PanelRows<'_>, out: &Rows<'_>) {
        let (first, column, columns) = (tile.row, tile.column, tile.columns);
        let rows = before.rows() / self.width.div_ceil(PANEL);
        // SAFETY: the caller's promise.
        let sums = unsafe { self.sums.of_rows(block.start, column, columns) };
        for (i, mut pair) in tile.pairs().enumerate() {
            let row = block.start + first + 2 * i;
            let mut activated = [[0.0; PANEL]; 2];
            for (i, (values, activated)) in pair.iter_mut().zip(&mut activated).enumerate().filter(|(_, (values, _))| !values.is_empty()) {
                let place = (column / PANEL * rows + row + i) * PANEL;
                match before.values() {
                    Values::F32(before) => activate(values, &before[place..][..PANEL], activated),
                    Values::Bf16(before) => activate(values, &before[place..][..PANEL], activated),
                }
                combine(sums, values, |s, v| s + v);
                // SAFETY: the caller's promise.
                unsafe { out.put(row + i - block.start, column, values) };
            }
            // SAFETY: the caller's promise.
            unsafe {
                self.panels.put(row, column, pair[0], pair[1]);
                hidden.put(row, column, &activated[0][..columns], &activated[1][..columns]);
            }
        }
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
fn activate<T: Number>(values: &mut [f32], before: &[T], activated: &mut [f32; PANEL]) {
    for ((d, x), a) in values.iter_mut().zip(before).zip(activated) {
        let (y, derivative) = gelu_and_derivative(x.single());
        *d *= derivative;
        *a = y;
    }
}
