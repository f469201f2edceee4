//! Layer normalisation: y = (x - mean) / sqrt(var + eps) * weight + bias over each row; var is the biased one.

use crate::ops::support::residual::Branch;
use crate::ops::support::cpu::rows::{ColumnParts, ColumnSums, Rows};
use crate::cpu::buffer::Buffer;
use crate::cpu::matmul::{PanelRows, Precision, in_blocks};
use crate::cpu::threads::Parts;
use crate::cpu::vector::{sum_by, wide};
use crate::{Backpass, ParameterId, Parameters, Tape, Tensor, Var};
use std::ops::Range;

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
        let (rows, width) = (x.value.rows(), x.value.width());
        let (parameters, all) = (self.parameters(), Branch::of(None, rows));
        let [mut y, mut statistics] = [Tensor::stale(x.value.dims()), Tensor::stale([rows, 2])];
        {
            let (y, statistics) = (Rows::of(&mut y), Parts::new(statistics.data_mut()));
            in_blocks(rows, width, Precision::F32, |block| {
                // SAFETY: a block owns its rows.
                unsafe { norm.forward(parameters, (&x.value, all), block.clone(), &y, block.start, &statistics) };
            });
        }
        if !self.wants_gradient(&[x], &[norm.weight, norm.bias]) {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let base = pass.take(x.node());
            Backward::new(norm, parameters, &x, Branch::of(None, rows), &statistics, base).run(pass, width, |back, block| {
                let dy = &dy.data()[block.start * width..block.end * width];
                // SAFETY: a block owns its rows.
                unsafe { back.rows(block, dy, None) };
            });
        })
    }
}

impl Norm {
    /// norm(x) for some of a branch's rows, put into y from row `first` on; `statistics` [rows, 2] gets mean and 1/deviation of each.
    ///
    /// # Safety
    /// Nobody else may be at the same rows.
    pub(in crate::ops) unsafe fn forward(
        &self,
        parameters: &Parameters,
        (x, branch): (&Tensor, Branch<'_>),
        rows: Range<usize>,
        y: &Rows<'_>,
        first: usize,
        statistics: &Parts<'_, f32>,
    ) {
        let (w, b) = (parameters.get(self.weight), parameters.get(self.bias));
        assert!(w.len() == x.width() && b.len() == x.width(), "{}: width", parameters.entry(self.weight).name);
        // SAFETY: the caller's promise.
        unsafe { normalise((x, branch), self.eps, Some((w, b)), rows, y, first, statistics) };
    }
}

/// The way back through a norm, a block of rows at a time.
pub(in crate::ops) struct Backward<'a> {
    norm: Norm,
    x: &'a Var,
    branch: Branch<'a>,
    /// [branch rows, 2]
    statistics: &'a Tensor,
    weight: &'a [f32],
    bias: &'a [f32],
    /// What x's gradient has come to from its other readers.
    base: Option<Tensor>,
}

/// The same while several threads are at it.
pub(in crate::ops) struct BackwardRows<'a> {
    of: &'a Backward<'a>,
    dx: Parts<'a, f32>,
    dweight: ColumnParts<'a>,
    dbias: ColumnParts<'a>,
}

impl<'a> Backward<'a> {
    pub fn new(
        norm: Norm,
        parameters: &'a Parameters,
        x: &'a Var,
        branch: Branch<'a>,
        statistics: &'a Tensor,
        base: Option<Tensor>,
    ) -> Backward<'a> {
        Backward { norm, x, branch, statistics, weight: parameters.get(norm.weight), bias: parameters.get(norm.bias), base }
    }

    /// Runs `work` on every block of the branch's rows and adds to the gradients of weight, bias and x; `widest` of what a block works out.
    pub fn run(self, pass: &mut Backpass<'_>, widest: usize, work: impl Fn(&BackwardRows<'_>, Range<usize>) + Sync) {
        let (rows, width) = (self.branch.len(), self.x.value.width());
        let [mut dweight, mut dbias] = [0, 1].map(|_| ColumnSums::new(rows, width));
        let mut dx = Tensor::stale(self.x.value.dims());
        self.branch.leave_out(self.base.as_ref(), &mut dx);
        {
            let (dweight, dbias) = (dweight.parts(), dbias.parts());
            let back = BackwardRows { of: &self, dx: Parts::new(dx.data_mut()), dweight, dbias };
            in_blocks(rows, widest, pass.precision(), |block| work(&back, block));
        }
        for (id, sums) in [(self.norm.weight, dweight), (self.norm.bias, dbias)] {
            if let Some(gradient) = pass.gradient(id) {
                sums.add_to(gradient);
            }
        }
        pass.add(self.x.node(), dx);
    }
}

impl BackwardRows<'_> {
    /// A block's rows: their dy is all that is given. norm(x) is worked out again for whoever wants it in `panels`.
    ///
    /// # Safety
    /// Nobody else may be at the same rows, which begin at a multiple of 32.
    pub unsafe fn rows(&self, block: Range<usize>, dy: &[f32], panels: Option<&PanelRows<'_>>) {
        let width = self.of.weight.len();
        let mut g = Buffer::stale(width);
        let mut normals = [Buffer::stale(width), Buffer::stale(width)];
        // SAFETY: the caller's promise.
        let (dw, db) = unsafe { (self.dweight.of_rows(block.start, 0, width), self.dbias.of_rows(block.start, 0, width)) };
        for first in block.clone().step_by(2) {
            wide(
                #[inline(always)]
                || {
                    for (row, normal) in (first..block.end).zip(&mut normals) {
                        let place = self.of.branch.row(row) * width;
                        let x = &self.of.x.value.data()[place..][..width];
                        let dy = &dy[(row - block.start) * width..][..width];
                        let statistics = (self.of.statistics.data()[2 * row], self.of.statistics.data()[2 * row + 1]);
                        if panels.is_some() {
                            affine(x, statistics, self.of.weight, self.of.bias, normal);
                        }
                        // SAFETY: as above.
                        let dx = unsafe { self.dx.part(place, width) };
                        let base = self.of.base.as_ref().map(|base| &base.data()[place..][..width]);
                        backward_row(x, dy, self.of.weight, statistics, base, &mut g, dx, dw, db);
                    }
                    if let Some(panels) = panels {
                        // SAFETY: as above.
                        unsafe { panels.put(first, 0, &normals[0], &normals[1]) };
                    }
                },
            );
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a row of each of the operator's arrays")]
fn backward_row(
    x: &[f32],
    dy: &[f32],
    w: &[f32],
    (mean, scale): (f32, f32),
    base: Option<&[f32]>,
    g: &mut [f32],
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let width = dx.len();
    let (x, dy, w, g) = (&x[..width], &dy[..width], &w[..width], &mut g[..width]);
    let (dw, db) = (&mut dw[..width], &mut db[..width]);
    let n = width as f32;
    (0..width).for_each(|i| g[i] = dy[i] * w[i]);
    let mean_g = sum_by([g], |[g]| g) / n;
    let mean_gx = sum_by([g, x], |[g, x]| g * (x - mean)) * scale / n;
    for i in 0..width {
        let normal = (x[i] - mean) * scale;
        dx[i] = scale * (g[i] - mean_g - normal * mean_gx);
        dw[i] += dy[i] * normal;
        db[i] += dy[i];
    }
    if let Some(base) = base {
        dx.iter_mut().zip(base).for_each(|(dx, base)| *dx += base);
    }
}

/// y = (x - mean) · scale · weight + bias.
#[inline(always)]
fn affine(x: &[f32], (mean, scale): (f32, f32), weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = y.len();
    let (x, weight, bias) = (&x[..width], &weight[..width], &bias[..width]);
    (0..width).for_each(|i| y[i] = ((x[i] - mean) * scale).mul_add(weight[i], bias[i]));
}

/// y = (x - mean) / deviation for some of a branch's rows, times weight plus bias where they are given, put into y from row `first` on; `statistics` [rows, 2]
/// gets mean and 1/deviation.
///
/// # Safety
/// Nobody else may be at the same rows.
unsafe fn normalise(
    (x, branch): (&Tensor, Branch<'_>),
    eps: f32,
    weight_and_bias: Option<(&[f32], &[f32])>,
    rows: Range<usize>,
    y: &Rows<'_>,
    first: usize,
    statistics: &Parts<'_, f32>,
) {
    let width = x.width();
    let mut normal = Buffer::stale(width);
    for (i, row) in rows.enumerate() {
        let x = &x.data()[branch.row(row) * width..][..width];
        // SAFETY: the caller's promise.
        let statistics = unsafe { statistics.part(2 * row, 2) };
        wide(
            #[inline(always)]
            || {
                let mean = sum_by([x], |[x]| x) / width as f32;
                let variance = sum_by([x], |[x]| (x - mean) * (x - mean)) / width as f32;
                let scale = 1.0 / (variance + eps).sqrt();
                match weight_and_bias {
                    None => normal.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * scale),
                    Some((w, b)) => affine(x, (mean, scale), w, b, &mut normal),
                }
                // SAFETY: as above.
                unsafe { y.put(first + i, 0, &normal) };
                statistics.copy_from_slice(&[mean, scale]);
            },
        );
    }
}

/// Layer normalisation without weight and bias, of values that need no gradient (a teacher's features).
pub fn layer_norm_plain(x: &Tensor, eps: f32) -> Tensor {
    let [mut y, mut statistics] = [Tensor::stale(x.dims()), Tensor::stale([x.rows(), 2])];
    let all = Branch::of(None, x.rows());
    {
        let (y, statistics) = (Rows::of(&mut y), Parts::new(statistics.data_mut()));
        in_blocks(x.rows(), x.width(), Precision::F32, |block| {
            // SAFETY: a block owns its rows.
            unsafe { normalise((x, all), eps, None, block.clone(), &y, block.start, &statistics) };
        });
    }
    y
}
