//! Batch normalization on the CPU.

use super::running::RunningStatistics;
use crate::cpu::simd::with_simd;
use crate::cpu::threads::{DisjointSlices, parallel};
use crate::parameters::ParameterId;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;
/// Columns of a block. A block sums over the rows in order, so that sums do not depend on the
/// threads.
const COLUMNS: usize = 32;

pub(super) fn batch_norm(
    tape: &mut Tape<'_>,
    x: &Var,
    affine: Option<(ParameterId, ParameterId)>,
    relu: bool,
    running: &mut RunningStatistics,
) -> Var {
    let (rows, width) = (x.value.rows(), x.value.width());
    let parameters = tape.parameters();
    let affine_of = |column: usize| affine.map_or((1.0, 0.0), |(w, b)| (parameters.get(w)[column], parameters.get(b)[column]));
    let mut y = Tensor::uninit(x.value.dims());
    let mut scales = Tensor::uninit([2, width]); // mean and 1/std
    {
        let y = DisjointSlices::new(y.data_mut());
        let scales = DisjointSlices::new(scales.data_mut());
        let (means, variances) = (DisjointSlices::new(running.mean.data_mut()), DisjointSlices::new(running.variance.data_mut()));
        parallel(width.div_ceil(COLUMNS), |block| {
            let first = block * COLUMNS;
            let n = COLUMNS.min(width - first);
            let column = |row: usize| &x.value.data()[row * width + first..][..n];
            // SAFETY: each block owns its columns.
            let (mean_out, scale_out) = unsafe { (scales.part(first, n), scales.part(width + first, n)) };
            with_simd(
                #[inline(always)]
                || {
                    let (mut mean, mut variance) = ([0.0f32; COLUMNS], [0.0f32; COLUMNS]);
                    for row in 0..rows {
                        mean.iter_mut().zip(column(row)).for_each(|(m, x)| *m += x);
                    }
                    mean.iter_mut().for_each(|m| *m /= rows as f32);
                    for row in 0..rows {
                        variance.iter_mut().zip(mean).zip(column(row)).for_each(|((v, m), x)| *v += (x - m) * (x - m));
                    }
                    // SAFETY: each block owns its columns.
                    let (running_mean, running_variance) = unsafe { (means.part(first, n), variances.part(first, n)) };
                    let (mut w, mut b) = ([0.0f32; COLUMNS], [0.0f32; COLUMNS]);
                    for i in 0..n {
                        let unbiased = variance[i] / (rows.max(2) - 1) as f32;
                        running_mean[i] += MOMENTUM * (mean[i] - running_mean[i]);
                        running_variance[i] += MOMENTUM * (unbiased - running_variance[i]);
                        mean_out[i] = mean[i];
                        scale_out[i] = 1.0 / (variance[i] / rows as f32 + EPS).sqrt();
                        (w[i], b[i]) = affine_of(first + i);
                    }
                    for row in 0..rows {
                        // SAFETY: each block owns its columns.
                        let y = unsafe { y.part(row * width + first, n) };
                        let x = column(row);
                        for i in 0..n {
                            let v = ((x[i] - mean_out[i]) * scale_out[i]).mul_add(w[i], b[i]);
                            y[i] = if relu && v < 0.0 { 0.0 } else { v };
                        }
                    }
                },
            );
        });
    }
    let trained: Vec<ParameterId> = affine.iter().flat_map(|&(w, b)| [w, b]).collect();
    if !tape.wants_gradient(&[x], &trained) {
        return Var::constant(y);
    }
    let (x, output) = (x.clone(), y.clone());
    tape.record(y, move |dy, pass| {
        let mut dx = Tensor::uninit(x.value.dims());
        let mut sums = Tensor::uninit([2, width]); // Σ dy·normal and Σ dy: the gradients of weight and bias
        {
            let dx = DisjointSlices::new(dx.data_mut());
            let sums = DisjointSlices::new(sums.data_mut());
            let (xs, dys, ys) = (x.value.data(), dy.data(), output.data());
            let weights = affine.map(|(weight, _)| pass.parameter(weight));
            parallel(width.div_ceil(COLUMNS), |block| {
                let first = block * COLUMNS;
                let n = COLUMNS.min(width - first);
                let (mean, scale) = (&scales.data()[first..][..n], &scales.data()[width + first..][..n]);
                // SAFETY: each block owns its columns.
                let (sum_normal, sum) = unsafe { (sums.part(first, n), sums.part(width + first, n)) };
                sum_normal.fill(0.0);
                sum.fill(0.0);
                let mut w = [1.0f32; COLUMNS];
                if let Some(weight) = weights {
                    w[..n].copy_from_slice(&weight[first..][..n]);
                }
                with_simd(
                    #[inline(always)]
                    || {
                        for row in 0..rows {
                            let start = row * width + first;
                            let (x, dy, y) = (&xs[start..][..n], &dys[start..][..n], &ys[start..][..n]);
                            for i in 0..n {
                                let g = if relu && y[i] <= 0.0 { 0.0 } else { dy[i] };
                                sum[i] += g;
                                sum_normal[i] += g * (x[i] - mean[i]) * scale[i];
                            }
                        }
                        for row in 0..rows {
                            let start = row * width + first;
                            let (x, dy, y) = (&xs[start..][..n], &dys[start..][..n], &ys[start..][..n]);
                            // SAFETY: each block owns its columns.
                            let dx = unsafe { dx.part(start, n) };
                            for i in 0..n {
                                let g = if relu && y[i] <= 0.0 { 0.0 } else { dy[i] };
                                let normal = (x[i] - mean[i]) * scale[i];
                                dx[i] = w[i] * scale[i] * (g - (sum[i] + normal * sum_normal[i]) / rows as f32);
                            }
                        }
                    },
                );
            });
        }
        if let Some((weight, bias)) = affine {
            for (id, sums) in [(weight, &sums.data()[..width]), (bias, &sums.data()[width..])] {
                if let Some(gradient) = pass.gradient(id) {
                    gradient.iter_mut().zip(sums).for_each(|(g, s)| *g += s);
                }
            }
        }
        pass.add(x.node(), dx);
    })
}
