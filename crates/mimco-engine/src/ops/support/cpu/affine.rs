//! The three products of an affine map: y = x Wᵀ + b, dx = dy W, dW = dyᵀ x.
//!
//! The work before and after a product is done while its elements are in cache. Each product writes
//! its result in the form that the next one reads.

use super::branch::Branch;
use super::output_grad::OutputGrad;
use crate::cpu::matmul::{Left, Operand, PANEL, Panels, Tile, product_in_parts, product_serial};
use crate::cpu::rows::RowWriter;
use crate::cpu::threads::DisjointSlices;
use crate::cpu::vector::combine;
use crate::ops::support::layer::Layer;
use crate::parameters::{ParameterId, Parameters};
use crate::tape::Backpass;
use crate::tensor::Tensor;

/// Packs W as the right factor of dx = dy W, for one use: W seldom has a second use before it
/// changes.
pub(in crate::ops) fn packed_weight(parameters: &Parameters, layer: Layer) -> Panels {
    Panels::new(parameters.matrix(layer.weight), parameters.precision())
}

impl Layer {
    /// Adds the bias to a tile of x Wᵀ and calls `finish(row, column, values)` for each of its
    /// rows.
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

    /// Computes x Wᵀ + b in this thread and calls `finish(row, column, values)` for each part of a
    /// row; `w` is Wᵀ in panels.
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

    /// Computes y = r + s γ ⊙ (x Wᵀ + b) for some of a branch's rows, from `first` on.
    ///
    /// # Safety
    /// No other thread may access the same rows of y.
    pub(in crate::ops) unsafe fn onto_residual(
        &self,
        parameters: &Parameters,
        w: &Panels,
        (residual, branch): (&Tensor, Branch<'_>),
        x: Operand<'_>,
        first: usize,
        y: &RowWriter<'_>,
    ) {
        let width = residual.width();
        self.forward(
            parameters,
            w,
            x,
            #[inline(always)]
            |row, column, values: &mut [f32]| {
                let row = branch.row(first + row);
                let r = &residual.data()[row * width + column..][..values.len()];
                if let Some(gamma) = branch.gamma(column, values.len()) {
                    combine(values, gamma, |y, g| y * g);
                }
                let s = branch.scale();
                combine(values, r, |y, r| s.mul_add(y, r));
                // SAFETY: ensured by the caller.
                unsafe { y.write(row, column, values) };
            },
        );
    }

    /// Adds dyᵀ x to the weight's gradient and the column sums of dy to the bias's, if they are
    /// trained.
    pub(in crate::ops) fn gradients(&self, pass: &mut Backpass<'_>, dy: &OutputGrad, x: impl FnOnce() -> Panels) {
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            dy.sums.add_to(db);
        }
        let Some(dw) = pass.gradient(self.weight) else { return };
        let x = x();
        let inputs = x.columns();
        assert_eq!(dw.len(), dy.panels.columns() * inputs, "a gradient of another size");
        let dw = DisjointSlices::new(dw);
        product_in_parts(Left::Columns(&dy.panels), &x, |mut tile| {
            tile.each_row(
                #[inline(always)]
                |row, column, values| {
                    // SAFETY: tiles do not overlap, and the parts of a tile are added one after the
                    // other.
                    let sum = unsafe { dw.part(row * inputs + column, values.len()) };
                    combine(sum, values, |s, v| s + v);
                },
            );
        });
    }

    /// Adds the gradients of a branch's last layer, and of γ if there is one.
    pub(in crate::ops) fn branch_gradients(
        &self,
        pass: &mut Backpass<'_>,
        gamma: Option<ParameterId>,
        dy: &OutputGrad,
        x: impl FnOnce() -> Panels,
    ) {
        match gamma {
            None => self.gradients(pass, dy, x),
            Some(gamma) => self.scaled_gradients(pass, gamma, dy, x),
        }
    }

    /// Adds the gradients of y = γ ⊙ (x Wᵀ + b), from D = s dy before γ.
    ///
    /// With G = Dᵀ x and g the column sums of D: dW += γ G, db += γ g, and
    /// dγ_j += G_j · W_j + g_j b_j, so that x Wᵀ + b need not be kept.
    fn scaled_gradients(&self, pass: &mut Backpass<'_>, gamma: ParameterId, d: &OutputGrad, x: impl FnOnce() -> Panels) {
        let (weight, bias) = (pass.parameter(self.weight), self.bias.map(|bias| pass.parameter(bias)));
        let (scale, outputs) = (pass.parameter(gamma), d.panels.columns());
        let mut sums = vec![0.0; outputs];
        d.sums.add_to(&mut sums);
        if let Some(db) = self.bias.and_then(|b| pass.gradient(b)) {
            db.iter_mut().zip(&sums).zip(scale).for_each(|((db, g), s)| *db += s * g);
        }
        let x = x();
        let (inputs, panels) = (x.columns(), x.columns().div_ceil(PANEL));
        // Products of a row of G with that of W by panel, each computed by one thread:
        // [outputs, panels]
        let mut products = Tensor::zeros([outputs, panels]);
        {
            let products = DisjointSlices::new(products.data_mut());
            let dw = pass.gradient(self.weight).map(DisjointSlices::new);
            product_in_parts(Left::Columns(&d.panels), &x, |mut tile| {
                tile.each_row(|row, column, values| {
                    let start = row * inputs + column;
                    // SAFETY: tiles do not overlap, and the parts of a tile are added one after the
                    // other.
                    unsafe {
                        let product = &mut products.part(row * panels + column / PANEL, 1)[0];
                        *product += values.iter().zip(&weight[start..]).map(|(v, w)| v * w).sum::<f32>();
                        if let Some(dw) = &dw {
                            dw.part(start, values.len()).iter_mut().zip(&*values).for_each(|(dw, v)| *dw += scale[row] * v);
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
