//! Affine maps y = act(x Wᵀ + b), alone and as the parts of a transformer's branches: the norm before, the residual sum after, the whole MLP.
//! A block of rows goes all the way through a branch, and all the way back, before the next one does.
//!
//! x [rows, inputs], W [outputs, inputs] as PyTorch keeps it, b `[outputs]`, y [rows, outputs]. How a branch
//! joins the stream, s γ ⊙, stands in residual.rs. Products are in the parameters' precision, residual sums in f32.

use crate::ops::support::cpu::layer::{Outgoing, first_rows, rows_of, stale_rows};
use crate::ops::support::cpu::norm::Backward;
use crate::ops::support::residual::{Branch, Residual};
use crate::ops::support::cpu::rows::Rows;
use crate::ops::{Activation, DropPath, Layer, Norm};
use crate::cpu::matmul::{Operand, PANEL, Panels, in_blocks, product, product_serial};
use crate::cpu::threads::Parts;
use crate::cpu::vector::{combine, gelu, wide};
use crate::{Backpass, ParameterId, Parameters, Tape, Tensor, Var};

impl Tape<'_> {
    /// y = act(x Wᵀ + b): x [rows, inputs] -> [rows, outputs], in x's precision.
    pub fn linear(&mut self, x: &Var, layer: Layer, activation: Activation) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let ([outputs, inputs], rows) = (layer.sizes(parameters), x.value.rows());
        assert_eq!(inputs, x.value.width(), "{}: width", parameters.entry(layer.weight).name);
        let wants = self.wants_gradient(&[x], &layer.parameters());
        let stale = || Tensor::stale_in(x.value.precision(), [rows, outputs]);
        let (mut y, mut before) = (stale(), (wants && activation == Activation::Gelu).then(stale));
        {
            let (y, before) = (Rows::of(&mut y), before.as_mut().map(Rows::of));
            product(x.value.operand(), &self.packed(layer.weight), |tile| {
                layer.finish(
                    parameters,
                    tile,
                    #[inline(always)]
                    |row, column, values| {
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
            });
        }
        if !wants {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let all = Branch::of(None, rows);
            let mut outgoing = Outgoing::stale(rows, outputs, precision);
            let mut dy_rows = stale_rows(precision, rows, outputs);
            {
                let (outgoing, out) = (outgoing.rows_mut(), Rows::of(&mut dy_rows));
                in_blocks(rows, outputs, precision, |block| {
                    let first = block.start;
                    // SAFETY: a block owns its rows.
                    unsafe { outgoing.of(block, (&dy, all), before.as_ref(), (&out, first)) };
                });
            }
            layer.gradients(pass, &outgoing, || Panels::new(x.value.operand(), precision));
            if x.node().is_some() {
                let mut dx = Tensor::stale_in(x.value.precision(), [rows, inputs]);
                {
                    let dx = Rows::of(&mut dx);
                    product(first_rows(&dy_rows, rows), &weights(parameters, layer), |mut tile| {
                        // SAFETY: tiles do not overlap.
                        unsafe { dx.put_tile(0, &mut tile) };
                    });
                }
                pass.add(x.node(), dx);
            }
        })
    }

    /// The beginning of a branch, y = norm(x) Wᵀ + b: x [rows, inputs] in f32 -> [rows that keep it, outputs] in the parameters' precision. What
    /// the norm makes of x is worked out again on the way back: that costs less than the memory it would fill.
    pub fn norm_linear(&mut self, x: &Var, norm: Norm, layer: Layer, drop_path: Option<&DropPath>) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let (drop_path, stream) = (drop_path.cloned(), x.value.rows());
        let branch = Branch::of(drop_path.as_ref(), stream);
        let ([outputs, inputs], rows) = (layer.sizes(parameters), branch.len());
        assert_eq!(inputs, x.value.width(), "{}: width", parameters.entry(layer.weight).name);
        let (mut y, mut statistics) = (Tensor::stale_in(precision, [rows, outputs]), Tensor::stale([rows, 2]));
        let w = self.packed(layer.weight);
        {
            let (y, statistics) = (Rows::of(&mut y), Parts::new(statistics.data_mut()));
            in_blocks(rows, outputs, precision, |block| {
                let mut normal = stale_rows(precision, block.len(), inputs);
                // SAFETY: a block owns its rows.
                unsafe { norm.forward(parameters, (&x.value, branch), block.clone(), &Rows::of(&mut normal), 0, &statistics) };
                layer.forward(
                    parameters,
                    &w,
                    first_rows(&normal, block.len()),
                    #[inline(always)]
                    |row, column, values| {
                        // SAFETY: a block owns its rows.
                        unsafe { y.put(block.start + row, column, values) };
                    },
                );
            });
        }
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[x], &[norm.weight, norm.bias, weight, bias]) {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let branch = Branch::of(drop_path.as_ref(), stream);
            let w = weights(parameters, layer);
            let mut outgoing = Outgoing::stale(rows, outputs, precision);
            let mut normal = Panels::stale(rows, inputs, precision);
            {
                let (outgoing, normal) = (outgoing.rows_mut(), normal.rows_mut());
                let base = pass.take(x.node());
                Backward::new(norm, parameters, &x, branch, &statistics, base).run(pass, outputs, |back, block| {
                    let mut dy_rows = stale_rows(precision, block.len(), outputs);
                    // SAFETY: a block owns its rows.
                    unsafe { outgoing.of(block.clone(), (&dy, Branch::of(None, rows)), None, (&Rows::of(&mut dy_rows), 0)) };
                    let mut dnormal = Tensor::stale([block.len(), inputs]);
                    let out = Rows::of(&mut dnormal);
                    product_serial(first_rows(&dy_rows, block.len()), &w, |mut tile| {
                        // SAFETY: this block's rows.
                        unsafe { out.put_tile(0, &mut tile) };
                    });
                    // SAFETY: a block owns its rows.
                    unsafe { back.rows(block, dnormal.data(), Some(&normal)) };
                });
            }
            drop(dy);
            layer.gradients(pass, &outgoing, || normal);
        })
    }

    /// The end of a branch, y = r + s γ ⊙ (x Wᵀ + b): residual r [rows, outputs], x [rows that keep it, inputs] -> [rows, outputs].
    pub fn linear_residual(&mut self, residual: &Var, x: &Var, layer: Layer, how: Residual<'_>) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let (gamma, drop_path, stream) = (how.gamma, how.drop_path.cloned(), residual.value.rows());
        let ([outputs, inputs], rows) = (layer.sizes(parameters), x.value.rows());
        let branch = Branch::of(drop_path.as_ref(), stream).scaled(parameters, gamma);
        assert!(inputs == x.value.width() && [rows, outputs] == [branch.len(), residual.value.width()], "a branch of another size");
        let mut y = Tensor::stale(residual.value.dims());
        branch.leave_out(Some(&residual.value), &mut y);
        let w = self.packed(layer.weight);
        {
            let y = Rows::of(&mut y);
            in_blocks(rows, inputs, precision, |block| {
                // SAFETY: a block owns its rows.
                unsafe { layer.onto(parameters, &w, (&residual.value, branch), rows_of(&x.value, block.clone()), block.start, &y) };
            });
        }
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[residual, x], &[weight, bias, gamma.unwrap_or(weight)]) {
            return Var::constant(y);
        }
        let (residual, x) = (residual.node(), x.clone());
        self.record(y, move |dy, pass| {
            let branch = Branch::of(drop_path.as_ref(), stream).scaled(parameters, gamma);
            let w = weights(parameters, layer);
            let mut outgoing = Outgoing::stale(rows, outputs, precision);
            let mut dx = Tensor::stale_in(x.value.precision(), [rows, inputs]);
            {
                let (outgoing, dx) = (outgoing.rows_mut(), Rows::of(&mut dx));
                in_blocks(rows, outputs, precision, |block| {
                    let mut dy_rows = stale_rows(precision, block.len(), outputs);
                    // SAFETY: a block owns its rows.
                    unsafe { outgoing.of(block.clone(), (&dy, branch), None, (&Rows::of(&mut dy_rows), 0)) };
                    product_serial(first_rows(&dy_rows, block.len()), &w, |mut tile| {
                        // SAFETY: this block's rows.
                        unsafe { dx.put_tile(block.start, &mut tile) };
                    });
                });
            }
            pass.add(residual, dy);
            pass.add(x.node(), dx);
            layer.end_gradients(pass, gamma, &outgoing, || Panels::new(x.value.operand(), precision));
        })
    }

    /// A transformer's second branch, y = x + s γ ⊙ (gelu(norm(x) W₁ᵀ + b₁) W₂ᵀ + b₂): x [rows, width] -> [rows, width]. Of the hidden rows the way
    /// back keeps what stands before the activation alone, in sheets of 32 columns, [sheet · rows + row, 32], as it is written and read.
    pub fn mlp(&mut self, x: &Var, norm: Norm, [first, second]: [Layer; 2], how: Residual<'_>) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let ([inner, inputs], [outputs, inner_too]) = (first.sizes(parameters), second.sizes(parameters));
        let (gamma, drop_path, stream, width) = (how.gamma, how.drop_path.cloned(), x.value.rows(), x.value.width());
        let branch = Branch::of(drop_path.as_ref(), stream).scaled(parameters, gamma);
        let rows = branch.len();
        assert!(inputs == width && outputs == width && inner == inner_too, "{}: sizes", parameters.entry(first.weight).name);
        let trained = [[norm.weight, norm.bias], first.parameters(), second.parameters(), [gamma.unwrap_or(norm.weight); 2]].concat();
        let wants = self.wants_gradient(&[x], &trained);
        let [mut y, mut statistics] = [Tensor::stale(x.value.dims()), Tensor::stale([rows, 2])];
        branch.leave_out(Some(&x.value), &mut y);
        let mut before = wants.then(|| Tensor::stale_in(precision, [inner.div_ceil(PANEL) * rows, PANEL]));
        let [w1, w2] = [first, second].map(|layer| self.packed(layer.weight));
        {
            let (y, statistics) = (Rows::of(&mut y), Parts::new(statistics.data_mut()));
            let before = before.as_mut().map(Rows::of);
            in_blocks(rows, inner, precision, |block| {
                let mut normal = stale_rows(precision, block.len(), width);
                // SAFETY: a block owns its rows.
                unsafe { norm.forward(parameters, (&x.value, branch), block.clone(), &Rows::of(&mut normal), 0, &statistics) };
                let mut hidden = stale_rows(precision, block.len(), inner);
                let out = Rows::of(&mut hidden);
                first.forward(
                    parameters,
                    &w1,
                    first_rows(&normal, block.len()),
                    #[inline(always)]
                    |row, column, values| {
                        // SAFETY: a block owns its rows.
                        unsafe {
                            if let Some(before) = &before {
                                before.put(column / PANEL * rows + block.start + row, 0, values);
                            }
                            values.iter_mut().for_each(|y| *y = gelu(*y));
                            out.put(row, column, values);
                        }
                    },
                );
                // SAFETY: a block owns its rows.
                unsafe { second.onto(parameters, &w2, (&x.value, branch), first_rows(&hidden, block.len()), block.start, &y) };
            });
        }
        let (true, Some(before)) = (wants, before) else { return Var::constant(y) };
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let branch = Branch::of(drop_path.as_ref(), stream).scaled(parameters, gamma);
            let [w1, w2] = [first, second].map(|layer| weights(parameters, layer));
            let [mut dbranch, mut dbefore] = [width, inner].map(|width| Outgoing::stale(rows, width, precision));
            let [mut normal, mut hidden] = [width, inner].map(|width| Panels::stale(rows, width, precision));
            {
                let (dbranch, dbefore, normal, hidden) = (dbranch.rows_mut(), dbefore.rows_mut(), normal.rows_mut(), hidden.rows_mut());
                pass.add(x.node(), dy.clone());
                let base = pass.take(x.node());
                Backward::new(norm, parameters, &x, branch, &statistics, base).run(pass, inner, |back, block| {
                    let count = block.len();
                    let mut dbranch_rows = stale_rows(precision, count, width);
                    // SAFETY: a block owns its rows.
                    unsafe { dbranch.of(block.clone(), (&dy, branch), None, (&Rows::of(&mut dbranch_rows), 0)) };
                    let mut dbefore_rows = stale_rows(precision, count, inner);
                    let out = Rows::of(&mut dbefore_rows);
                    product_serial(first_rows(&dbranch_rows, count), &w2, |mut tile| {
                        wide(
                            #[inline(always)]
                            // SAFETY: as above.
                            || unsafe { dbefore.through_gelu(&block, &mut tile, &before, &hidden, &out) },
                        );
                    });
                    drop(dbranch_rows);
                    let mut dnormal = Tensor::stale([count, width]);
                    let out = Rows::of(&mut dnormal);
                    product_serial(first_rows(&dbefore_rows, count), &w1, |mut tile| {
                        // SAFETY: this block's rows.
                        unsafe { out.put_tile(0, &mut tile) };
                    });
                    drop(dbefore_rows);
                    // SAFETY: a block owns its rows.
                    unsafe { back.rows(block, dnormal.data(), Some(&normal)) };
                });
            }
            drop((w1, w2, before, dy));
            second.end_gradients(pass, gamma, &dbranch, || hidden);
            first.gradients(pass, &dbefore, || normal);
        })
    }
}

/// W as dx = dy W takes it, packed for this once: it seldom is asked for again before it changes.
fn weights(parameters: &Parameters, layer: Layer) -> Panels {
    Panels::new(parameters.matrix(layer.weight), parameters.precision())
}

impl Layer {
    /// The gradients of a branch's last layer, and γ's.
    fn end_gradients(&self, pass: &mut Backpass<'_>, gamma: Option<ParameterId>, dy: &Outgoing, x: impl FnOnce() -> Panels) {
        match gamma {
            None => self.gradients(pass, dy, x),
            Some(gamma) => self.scaled_gradients(pass, gamma, dy, x),
        }
    }

    /// y = r + s γ ⊙ (x Wᵀ + b) for some of a branch's rows, which begin at `first`.
    ///
    /// # Safety
    /// Nobody else may be at the same rows of y.
    unsafe fn onto(
        &self,
        parameters: &Parameters,
        w: &Panels,
        (residual, branch): (&Tensor, Branch<'_>),
        x: Operand<'_>,
        first: usize,
        y: &Rows<'_>,
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
                // SAFETY: the caller's promise.
                unsafe { y.put(row, column, values) };
            },
        );
    }
}
