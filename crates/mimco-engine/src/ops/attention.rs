//! Multi-head self-attention over packed tokens: softmax(q kᵀ / sqrt(d)) v for each image and head, kept in cache.
//!
//! qkv [rows, 3 · width], a row holding q, k, v and within each the heads one after the other, as timm packs them; image i owns
//! the rows `offsets[i]..offsets[i + 1]`, so images may have any number of tokens. The backward pass computes the scores
//! again: they are cheaper than the memory they would fill.

use crate::cpu::matmul::{Matrix, matmul_serial, matmul_strided};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::{dot, exp, max, sum_by, wide};
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

use super::check_offsets;

impl Tape<'_> {
    /// qkv [rows, 3 · width], offsets [images + 1] -> [rows, width].
    pub fn attention(&mut self, qkv: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
        let (rows, width) = (qkv.value.rows(), qkv.value.width() / 3);
        assert_eq!(qkv.value.width(), 3 * width, "a row holds q, k and v");
        assert_eq!(width % heads, 0, "heads divide the width");
        check_offsets(offsets, rows);
        let mut y = Tensor::stale([rows, width]);
        {
            let y = Parts::new(y.data_mut());
            for_each_head(&qkv.value, offsets, heads, |head| {
                with_scratch(head.tokens * head.tokens, |scores| {
                    head.probabilities(scores);
                    with_scratch(head.tokens * head.size, |out| {
                        let p = Matrix::new(scores, head.tokens, head.tokens);
                        matmul_serial(out, p, head.v(), false);
                        for (token, out) in out.chunks_exact(head.size).enumerate() {
                            // SAFETY: a row of this image alone, columns of this head alone; images do not overlap (`check_offsets`).
                            let y = unsafe { y.part((head.row + token) * width + head.column, head.size) };
                            y.copy_from_slice(out);
                        }
                    });
                });
            });
        }
        if !self.wants_gradient(&[qkv], &[]) {
            return Var::constant(y);
        }
        let (qkv, offsets) = (qkv.clone(), offsets.clone());
        self.record(y, move |dy, pass| {
            let mut dqkv = Tensor::stale(qkv.value.dims());
            {
                let dqkv = Parts::new(dqkv.data_mut());
                for_each_head(&qkv.value, &offsets, heads, |head| head.backward(&dy, &dqkv));
            }
            pass.add(qkv.node(), dqkv);
        })
    }
}

/// One head of one image.
struct Head<'a> {
    qkv: &'a [f32],
    width: usize,
    /// First row of the image.
    row: usize,
    tokens: usize,
    /// First column of the head.
    column: usize,
    /// Width of a head.
    size: usize,
}

/// Heads of an image in a block: neighbours share the rows of qkv.
fn for_each_head(qkv: &Tensor, offsets: &[usize], heads: usize, work: impl Fn(Head<'_>) + Sync) {
    let width = qkv.width() / 3;
    parallel(offsets.len() - 1, |image| {
        let (row, tokens) = (offsets[image], offsets[image + 1] - offsets[image]);
        if tokens == 0 {
            return;
        }
        for head in 0..heads {
            let size = width / heads;
            work(Head { qkv: qkv.data(), width, row, tokens, column: head * size, size });
        }
    });
}

impl<'a> Head<'a> {
    fn part(&self, which: usize) -> Matrix<'a> {
        let stride = 3 * self.width;
        let start = self.row * stride + which * self.width + self.column;
        Matrix::strided(&self.qkv[start..], self.tokens, self.size, stride)
    }

    fn v(&self) -> Matrix<'a> {
        self.part(2)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// softmax(q kᵀ / sqrt(d)) into `scores` [tokens, tokens].
    fn probabilities(&self, scores: &mut [f32]) {
        matmul_strided(scores, self.tokens, self.part(0), self.part(1).t(), false, self.scale());
        wide(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(self.tokens) {
                    let top = max(row);
                    row.iter_mut().for_each(|s| *s = exp(*s - top));
                    let inverse = 1.0 / sum_by(row.len(), |i| row[i]);
                    row.iter_mut().for_each(|s| *s *= inverse);
                }
            },
        );
    }

    /// With P the probabilities: dV = Pᵀ dO; dS = P (dP - Σ P dP), dP = dO Vᵀ; dQ = dS K / sqrt(d); dK = dSᵀ Q / sqrt(d).
    fn backward(&self, dy: &Tensor, dqkv: &Parts<'_, f32>) {
        let (tokens, size, width) = (self.tokens, self.size, self.width);
        with_scratch(2 * tokens * tokens + tokens * size, |scratch| {
            let (p, rest) = scratch.split_at_mut(tokens * tokens);
            let (ds, out) = rest.split_at_mut(tokens * tokens);
            self.probabilities(p);
            let start = self.row * width + self.column;
            let d = Matrix::strided(&dy.data()[start..], tokens, size, width);
            matmul_serial(ds, d, self.v().t(), false);
            let store = |which: usize, out: &[f32]| {
                for (token, out) in out.chunks_exact(size).enumerate() {
                    let start = (self.row + token) * 3 * width + which * width + self.column;
                    // SAFETY: a row of this image alone, columns of this head alone, and of one of q, k, v at a time.
                    unsafe { dqkv.part(start, size) }.copy_from_slice(out);
                }
            };
            matmul_serial(out, Matrix::new(p, tokens, tokens).t(), d, false);
            store(2, out);
            wide(
                #[inline(always)]
                || {
                    for (p, ds) in p.chunks_exact(tokens).zip(ds.chunks_exact_mut(tokens)) {
                        let delta = dot(p, ds);
                        p.iter().zip(ds).for_each(|(p, ds)| *ds = p * (*ds - delta));
                    }
                },
            );
            let ds = Matrix::new(ds, tokens, tokens);
            matmul_strided(out, size, ds, self.part(1), false, self.scale());
            store(0, out);
            matmul_strided(out, size, ds.t(), self.part(0), false, self.scale());
            store(1, out);
        });
    }
}

/// Calls `work` with `len` numbers of this thread's scratch memory, whose values are left from an earlier use.
fn with_scratch(len: usize, work: impl FnOnce(&mut [f32])) {
    work(&mut crate::cpu::buffer::Buffer::stale(len));
}
