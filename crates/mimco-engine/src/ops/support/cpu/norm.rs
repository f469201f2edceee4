//! Layer normalization of blocks of rows, forward and backward.

use super::branch::Branch;
use super::column_sums::{ColumnParts, ColumnSums};
use crate::cpu::buffer::Buffer;
use crate::cpu::matmul::{PanelWriter, in_blocks};
use crate::cpu::rows::RowWriter;
use crate::cpu::simd::with_simd;
use crate::cpu::threads::DisjointSlices;
use crate::cpu::vector::sum_by;
use crate::ops::support::norm::Norm;
use crate::parameters::Parameters;
use crate::tape::{Backpass, Var};
use crate::tensor::Tensor;
use std::ops::Range;

impl Norm {
    /// Normalizes some of a branch's rows into y, from row `first` on. `statistics` [rows, 2] gets
    /// mean and 1/std of each.
    ///
    /// # Safety
    /// No other thread may access the same rows.
    pub(in crate::ops) unsafe fn forward(
        &self,
        parameters: &Parameters,
        (x, branch): (&Tensor, Branch<'_>),
        rows: Range<usize>,
        y: &RowWriter<'_>,
        first: usize,
        statistics: &DisjointSlices<'_, f32>,
    ) {
        let (w, b) = (parameters.get(self.weight), parameters.get(self.bias));
        // SAFETY: ensured by the caller.
        unsafe { normalize((x, branch), self.eps, Some((w, b)), rows, y, first, statistics) };
    }
}

/// Normalizes some of a branch's rows into y, from row `first` on: (x - mean) / std, times weight
/// plus bias if they are given. `statistics` [rows, 2] gets mean and 1/std.
///
/// # Safety
/// No other thread may access the same rows.
pub(in crate::ops) unsafe fn normalize(
    (x, branch): (&Tensor, Branch<'_>),
    eps: f32,
    weight_and_bias: Option<(&[f32], &[f32])>,
    rows: Range<usize>,
    y: &RowWriter<'_>,
    first: usize,
    statistics: &DisjointSlices<'_, f32>,
) {
    let width = x.width();
    let mut normal = Buffer::uninit(width);
    for (i, row) in rows.enumerate() {
        let x = &x.data()[branch.row(row) * width..][..width];
        // SAFETY: ensured by the caller.
        let statistics = unsafe { statistics.part(2 * row, 2) };
        with_simd(
            #[inline(always)]
            || {
                let mean = sum_by([x], |[x]| x) / width as f32;
                let variance = sum_by([x], |[x]| (x - mean) * (x - mean)) / width as f32;
                let scale = 1.0 / (variance + eps).sqrt();
                match weight_and_bias {
                    None => normal.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * scale),
                    Some((w, b)) => affine(x, (mean, scale), w, b, &mut normal),
                }
                // SAFETY: ensured by the caller.
                unsafe { y.write(first + i, 0, &normal) };
                statistics.copy_from_slice(&[mean, scale]);
            },
        );
    }
}

/// Backward pass of a norm, by blocks of rows.
pub(in crate::ops) struct NormBackward<'a> {
    norm: Norm,
    x: &'a Var,
    branch: Branch<'a>,
    /// Mean and 1/std, [branch rows, 2].
    statistics: &'a Tensor,
    weight: &'a [f32],
    bias: &'a [f32],
    /// Gradient of x from its other readers.
    base: Option<Tensor>,
}

/// Backward pass of a norm while several threads run it.
pub(in crate::ops) struct NormBackwardRows<'a> {
    of: &'a NormBackward<'a>,
    dx: DisjointSlices<'a, f32>,
    dweight: ColumnParts<'a>,
    dbias: ColumnParts<'a>,
}

impl<'a> NormBackward<'a> {
    /// Describes the backward pass of norm(x) for a branch's rows. `base` is the gradient that x
    /// has collected so far.
    pub fn new(
        norm: Norm,
        parameters: &'a Parameters,
        x: &'a Var,
        branch: Branch<'a>,
        statistics: &'a Tensor,
        base: Option<Tensor>,
    ) -> NormBackward<'a> {
        NormBackward { norm, x, branch, statistics, weight: parameters.get(norm.weight), bias: parameters.get(norm.bias), base }
    }

    /// Runs `work` on every block of the branch's rows, then adds to the gradients of weight, bias
    /// and x. `widest` is the largest width of a block's intermediate results.
    pub fn run(self, pass: &mut Backpass<'_>, widest: usize, work: impl Fn(&NormBackwardRows<'_>, Range<usize>) + Sync) {
        let (rows, width) = (self.branch.len(), self.x.value.width());
        let [mut dweight, mut dbias] = [0, 1].map(|_| ColumnSums::new(rows, width));
        let mut dx = Tensor::uninit(self.x.value.dims());
        self.branch.copy_skipped(self.base.as_ref(), &mut dx);
        {
            let (dweight, dbias) = (dweight.parts(), dbias.parts());
            let back = NormBackwardRows { of: &self, dx: DisjointSlices::new(dx.data_mut()), dweight, dbias };
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

impl NormBackwardRows<'_> {
    /// Runs the backward pass of a block's rows from their dy. If `panels` is given, it gets
    /// norm(x) again.
    ///
    /// # Safety
    /// No other thread may access the same rows, which begin at a multiple of 32.
    pub unsafe fn rows(&self, block: Range<usize>, dy: &[f32], panels: Option<&PanelWriter<'_>>) {
        let width = self.of.weight.len();
        let mut g = Buffer::uninit(width);
        let mut normals = [Buffer::uninit(width), Buffer::uninit(width)];
        // SAFETY: ensured by the caller.
        let (dw, db) = unsafe { (self.dweight.of_rows(block.start, 0, width), self.dbias.of_rows(block.start, 0, width)) };
        for first in block.clone().step_by(2) {
            with_simd(
                #[inline(always)]
                || {
                    for (row, normal) in (first..block.end).zip(&mut normals) {
                        let start = self.of.branch.row(row) * width;
                        let x = &self.of.x.value.data()[start..][..width];
                        let dy = &dy[(row - block.start) * width..][..width];
                        let statistics = (self.of.statistics.data()[2 * row], self.of.statistics.data()[2 * row + 1]);
                        if panels.is_some() {
                            affine(x, statistics, self.of.weight, self.of.bias, normal);
                        }
                        // SAFETY: ensured by the caller.
                        let dx = unsafe { self.dx.part(start, width) };
                        let base = self.of.base.as_ref().map(|base| &base.data()[start..][..width]);
                        backward_row(x, dy, self.of.weight, statistics, base, &mut g, dx, dw, db);
                    }
                    if let Some(panels) = panels {
                        // SAFETY: ensured by the caller.
                        unsafe { panels.write(first, 0, &normals[0], &normals[1]) };
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

/// Sets y = (x - mean) · scale · weight + bias.
#[inline(always)]
fn affine(x: &[f32], (mean, scale): (f32, f32), weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = y.len();
    let (x, weight, bias) = (&x[..width], &weight[..width], &bias[..width]);
    (0..width).for_each(|i| y[i] = ((x[i] - mean) * scale).mul_add(weight[i], bias[i]));
}
