//! InfoNCE on the CPU. The gradient is computed with the loss, by blocks of rows, so that logits
//! stay in cache.
//!
//! With p the softmax, dq̂ᵢ = (Σ pⱼ k̂ⱼ - k̂ₚ) / (τ rows) and dq = (dq̂ - q̂ (q̂·dq̂)) / |q|.

use super::targets::{ContrastiveTargets, Positive};
use crate::cpu::buffer::Buffer;
use crate::cpu::gemm::{Matrix, matmul_serial};
use crate::cpu::simd::with_simd;
use crate::cpu::threads::{DisjointSlices, for_each_chunk, parallel};
use crate::cpu::vector::{dot, exp, max, sum_by};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Rows of a block.
const ROWS: usize = 32;
/// Lower bound of norms, as in PyTorch's `normalize`.
const EPS: f32 = 1e-12;

pub(super) fn info_nce(tape: &mut Tape<'_>, queries: &Var, targets: &ContrastiveTargets<'_>) -> (Var, Tensor) {
    let (rows, width) = (queries.value.rows(), queries.value.width());
    let (groups, candidates) = (targets.keys.dims()[0], targets.keys.dims()[1]);
    if rows == 0 {
        return (Var::constant(Tensor::scalar(0.0)), Tensor::scalar(0.0));
    }
    let (q, norms) = normalize(&queries.value);
    let (k, _) = normalize(targets.keys);
    let positives = match targets.positive {
        Positive::InKeys(_) => None,
        Positive::Separate(positives) => Some(normalize(positives).0),
    };
    let wants = tape.wants_gradient(&[queries], &[]);
    let mut gradient = Tensor::uninit(if wants { [rows, width] } else { [0, width] });
    let mut row_results = vec![(0.0f64, false); rows];
    {
        let gradient = DisjointSlices::new(gradient.data_mut());
        let results = DisjointSlices::new(&mut row_results);
        let group_rows = rows / groups;
        let blocks = group_rows.div_ceil(ROWS);
        parallel(groups * blocks, |block| {
            let (group, first) = (block / blocks, block % blocks * ROWS);
            let n = ROWS.min(group_rows - first);
            let first = group * group_rows + first;
            let k = Matrix::new(&k.data()[group * candidates * width..][..candidates * width], candidates, width);
            let q_block = &q.data()[first * width..][..n * width];
            let mut logits = Buffer::uninit(n * candidates);
            matmul_serial(&mut logits, Matrix::new(q_block, n, width), k.t(), false);
            // SAFETY: each block owns its rows.
            let results = unsafe { results.part(first, n) };
            let mut separate = [0.0f32; ROWS]; // softmax of separate positives
            for i in 0..n {
                let row = first + i;
                let logits = &mut logits[i * candidates..][..candidates];
                let target = match targets.positive {
                    Positive::InKeys(indices) => Target::InKeys(indices[row] as usize),
                    Positive::Separate(_) => {
                        let p = positives.as_ref().map_or(&[][..], |p| &p.data()[row * width..][..width]);
                        Target::Separate(with_simd(
                            #[inline(always)]
                            || dot(&q_block[i * width..][..width], p),
                        ))
                    }
                };
                let ids = targets.sample_ids.map(|(rows, keys)| (rows[row], keys));
                (results[i], separate[i]) = softmax_row(logits, target, ids, targets.temperature);
            }
            if wants {
                // SAFETY: each block owns its rows.
                let d = unsafe { gradient.part(first * width, n * width) };
                matmul_serial(d, Matrix::new(&logits, n, candidates), k, false);
                for (i, d) in d.chunks_exact_mut(width).enumerate() {
                    let q = &q_block[i * width..][..width];
                    let scale = 1.0 / (targets.temperature * rows as f32);
                    let positive = positives.as_ref().map(|p| &p.data()[(first + i) * width..][..width]);
                    with_simd(
                        #[inline(always)]
                        || {
                            if let Some(p) = positive {
                                d.iter_mut().zip(p).for_each(|(d, p)| *d = p.mul_add(separate[i] - 1.0, *d));
                            }
                            let along = dot(q, d);
                            let scale = scale / norms[first + i];
                            d.iter_mut().zip(q).for_each(|(d, q)| *d = scale * (*d - q * along));
                        },
                    );
                }
            }
        });
    }
    let loss = row_results.iter().map(|r| r.0).sum::<f64>() / rows as f64;
    let wins = row_results.iter().filter(|r| r.1).count() as f32 / rows as f32;
    let (loss, wins) = (Tensor::scalar(loss as f32), Tensor::scalar(wins));
    if !wants {
        return (Var::constant(loss), wins);
    }
    let node = queries.node();
    let loss = tape.record(loss, move |d, pass| {
        let mut gradient = gradient;
        let d = d.data()[0];
        const CHUNK: usize = 16 * 1024;
        for_each_chunk(gradient.data_mut(), CHUNK, |_, g| g.iter_mut().for_each(|g| *g *= d));
        pass.add(node, gradient);
    });
    (loss, wins)
}

enum Target {
    /// Index of the positive among the keys.
    InKeys(usize),
    /// Similarity of a separate positive.
    Separate(f32),
}

/// Turns similarities into their softmax, minus 1 for a positive among them.
///
/// Returns the row's loss, whether the positive has the largest similarity, and the softmax of a
/// separate positive.
fn softmax_row(row: &mut [f32], target: Target, ids: Option<(u64, &[u64])>, temperature: f32) -> ((f64, bool), f32) {
    let in_keys = if let Target::InKeys(target) = target { Some(target) } else { None };
    if let Some((id, keys)) = ids {
        for (j, (s, &key)) in row.iter_mut().zip(keys).enumerate() {
            if key == id && Some(j) != in_keys {
                *s = f32::NEG_INFINITY;
            }
        }
    }
    let positive = match target {
        Target::InKeys(target) => row[target],
        Target::Separate(similarity) => similarity,
    };
    with_simd(
        #[inline(always)]
        || {
            let top = max(row).max(positive);
            let inverse_temperature = 1.0 / temperature;
            row.iter_mut().for_each(|s| {
                let e = exp((*s - top) * inverse_temperature);
                *s = if *s == f32::NEG_INFINITY { 0.0 } else { e };
            });
            let positive_e = exp((positive - top) * inverse_temperature);
            let mut total = sum_by([row], |[e]| e);
            if in_keys.is_none() {
                total += positive_e;
            }
            let inverse = 1.0 / total;
            row.iter_mut().for_each(|s| *s *= inverse);
            if let Some(target) = in_keys {
                row[target] -= 1.0;
            }
            let loss = (total as f64).ln() - ((positive - top) * inverse_temperature) as f64;
            ((loss, positive >= top), positive_e * inverse)
        },
    )
}

/// Returns the rows divided by their norms, and the norms.
fn normalize(x: &Tensor) -> (Tensor, Buffer) {
    let width = x.width();
    let rows = x.rows();
    let mut y = Tensor::uninit([rows, width]);
    let mut norms = Buffer::uninit(rows);
    {
        let norms = DisjointSlices::new(&mut norms);
        for_each_chunk(y.data_mut(), ROWS * width, |block, y| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let row = block * ROWS + i;
                let x = &x.data()[row * width..][..width];
                // SAFETY: each block owns its rows.
                let norm = unsafe { norms.part(row, 1) };
                with_simd(
                    #[inline(always)]
                    || {
                        let length = dot(x, x).sqrt();
                        norm[0] = if length < EPS { EPS } else { length }; // keeps NaN, as `max` would not
                        let inverse = 1.0 / norm[0];
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse);
                    },
                );
            }
        });
    }
    (y, norms)
}
