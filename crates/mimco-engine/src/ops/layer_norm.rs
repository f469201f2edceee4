//! Layer normalisation: y = (x - mean) / sqrt(var + eps) * weight + bias over each row; var is the biased one.

use super::store::Rows;
use crate::cpu::buffer::Buffer;
use crate::cpu::number::Number;
use crate::cpu::product::{Panels, Precision, Values};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::{sum_by, wide};
use crate::{Backpass, ParameterId, Parameters, Tape, Tensor, Var};

/// Rows a block: few enough to stay in cache, the unit of the fixed-order sums of the weight's gradient.
const ROWS: usize = 64;

/// A layer norm's parameters.
#[derive(Clone, Copy)]
pub struct Norm {
    /// `[width]`
    pub weight: ParameterId,
    /// `[width]`
    pub bias: ParameterId,
    /// Added to the variance.
    pub eps: f32,
}

impl Tape<'_> {
    /// x [rows, width] -> [rows, width] in f32.
    pub fn layer_norm(&mut self, x: &Var, norm: Norm) -> Var {
        let mut statistics = Tensor::stale([x.value.rows(), 2]);
        let y = norm.forward(self.parameters(), &x.value, Precision::F32, &mut statistics);
        if !self.wants_gradient(&[x], &[norm.weight, norm.bias]) {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| norm.backward(pass, &x, &statistics, &dy))
    }
}

impl Norm {
    /// y = norm(x) in a precision; `statistics` [rows, 2] gets mean and 1/deviation of each row.
    pub(super) fn forward(&self, parameters: &Parameters, x: &Tensor, precision: Precision, statistics: &mut Tensor) -> Tensor {
        let (w, b) = (parameters.get(self.weight), parameters.get(self.bias));
        assert!(w.len() == x.width() && b.len() == x.width(), "{}: width", parameters.entry(self.weight).name);
        let mut y = Tensor::stale_in(precision, x.dims());
        normalise_rows(x, self.eps, &mut y, statistics, Some((w, b)));
        y
    }

    /// norm(x) once more, in panels, from the statistics that `forward` left.
    pub(super) fn panels(&self, parameters: &Parameters, x: &Tensor, statistics: &Tensor) -> Panels {
        let (w, b) = (parameters.get(self.weight), parameters.get(self.bias));
        let (rows, width) = (x.rows(), x.width());
        let mut panels = Panels::stale(rows, width, parameters.precision());
        {
            let out = panels.rows_mut();
            parallel(rows.div_ceil(ROWS), |block| {
                let mut normals = [Buffer::stale(width), Buffer::stale(width)];
                for row in (block * ROWS..((block + 1) * ROWS).min(rows)).step_by(2) {
                    let pair = row..(row + 2).min(rows);
                    wide(
                        #[inline(always)]
                        || {
                            for (normal, row) in normals.iter_mut().zip(pair) {
                                let (mean, scale) = (statistics.data()[2 * row], statistics.data()[2 * row + 1]);
                                affine(&x.data()[row * width..][..width], mean, scale, w, b, normal);
                            }
                            // SAFETY: a block owns its rows, an even number.
                            unsafe { out.put(row, 0, &normals[0], &normals[1]) };
                        },
                    );
                }
            });
        }
        panels
    }

    /// Adds to the gradients of weight, bias and x.
    pub(super) fn backward(&self, pass: &mut Backpass<'_>, x: &Var, statistics: &Tensor, dy: &Tensor) {
        let w = pass.parameter(self.weight);
        let (rows, width) = (x.value.rows(), x.value.width());
        let blocks = rows.div_ceil(ROWS);
        // What x is added to beside this operator has its gradient already: this one goes on top in the same pass.
        let before = pass.take(x.node());
        let on_top = before.is_some();
        let mut dx = before.unwrap_or_else(|| Tensor::stale(x.value.dims()));
        let mut partial = Tensor::zeros([blocks, 2, width]); // gradients of weight and bias, a block of rows each
        {
            let dx = Parts::new(dx.data_mut());
            let partial = Parts::new(partial.data_mut());
            parallel(blocks, |block| {
                // SAFETY: a block owns its partial sums and its rows.
                let (dw, db) = unsafe { partial.part(block * 2 * width, 2 * width) }.split_at_mut(width);
                let mut g = Buffer::stale(width);
                for row in block * ROWS..((block + 1) * ROWS).min(rows) {
                    let x = &x.value.data()[row * width..][..width];
                    let place = row * width..(row + 1) * width;
                    // SAFETY: as above.
                    let dx = unsafe { dx.part(row * width, width) };
                    let statistics = (statistics.data()[2 * row], statistics.data()[2 * row + 1]);
                    wide(
                        #[inline(always)]
                        || match dy.values() {
                            Values::F32(dy) => backward_row(x, &dy[place], w, statistics, on_top, &mut g, dx, dw, db),
                            Values::Bf16(dy) => backward_row(x, &dy[place], w, statistics, on_top, &mut g, dx, dw, db),
                        },
                    );
                }
            });
        }
        for (id, which) in [(self.weight, 0), (self.bias, 1)] {
            if let Some(gradient) = pass.gradient(id) {
                for block in partial.data().chunks_exact(2 * width) {
                    let sums = &block[which * width..][..width];
                    gradient.iter_mut().zip(sums).for_each(|(g, s)| *g += s);
                }
            }
        }
        pass.add(x.node(), dx);
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a row of each of the operator's arrays")]
fn backward_row<T: Number>(
    x: &[f32],
    dy: &[T],
    w: &[f32],
    (mean, scale): (f32, f32),
    on_top: bool,
    g: &mut [f32],
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let width = dx.len();
    let (x, dy, w, g) = (&x[..width], &dy[..width], &w[..width], &mut g[..width]);
    let (dw, db) = (&mut dw[..width], &mut db[..width]);
    let n = width as f32;
    (0..width).for_each(|i| g[i] = dy[i].single() * w[i]);
    let mean_g = sum_by([g], |[g]| g) / n;
    let mean_gx = sum_by([g, x], |[g, x]| g * (x - mean)) * scale / n;
    for i in 0..width {
        let (dy, normal) = (dy[i].single(), (x[i] - mean) * scale);
        let before = if on_top { dx[i] } else { 0.0 };
        dx[i] = before + scale * (g[i] - mean_g - normal * mean_gx);
        dw[i] += dy * normal;
        db[i] += dy;
    }
}

/// y = (x - mean) · scale · weight + bias.
#[inline(always)]
fn affine(x: &[f32], mean: f32, scale: f32, weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = y.len();
    let (x, weight, bias) = (&x[..width], &weight[..width], &bias[..width]);
    (0..width).for_each(|i| y[i] = ((x[i] - mean) * scale).mul_add(weight[i], bias[i]));
}

/// y = (x - mean) / deviation for each row, times weight plus bias where they are given; `statistics` [rows, 2] gets mean and 1/deviation.
fn normalise_rows(x: &Tensor, eps: f32, y: &mut Tensor, statistics: &mut Tensor, weight_and_bias: Option<(&[f32], &[f32])>) {
    let (rows, width) = (x.rows(), x.width());
    let y = Rows::of(y);
    let statistics = Parts::new(statistics.data_mut());
    parallel(rows.div_ceil(ROWS), |block| {
        let mut normal = Buffer::stale(width);
        for row in block * ROWS..((block + 1) * ROWS).min(rows) {
            let x = &x.data()[row * width..][..width];
            // SAFETY: a block owns its rows.
            let statistics = unsafe { statistics.part(2 * row, 2) };
            wide(
                #[inline(always)]
                || {
                    let mean = sum_by([x], |[x]| x) / width as f32;
                    let variance = sum_by([x], |[x]| (x - mean) * (x - mean)) / width as f32;
                    let scale = 1.0 / (variance + eps).sqrt();
                    match weight_and_bias {
                        None => normal.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * scale),
                        Some((w, b)) => affine(x, mean, scale, w, b, &mut normal),
                    }
                    // SAFETY: a block owns its rows.
                    unsafe { y.put(row, 0, &normal) };
                    statistics.copy_from_slice(&[mean, scale]);
                },
            );
        }
    });
}

/// Layer normalisation without weight and bias, of values that need no gradient (a teacher's features).
pub fn layer_norm_plain(x: &Tensor, eps: f32) -> Tensor {
    let mut y = Tensor::stale(x.dims());
    let mut statistics = Tensor::stale([x.rows(), 2]);
    normalise_rows(x, eps, &mut y, &mut statistics, None);
    y
}
