//! Multi-head self-attention over packed tokens: softmax(q kᵀ / sqrt(d)) v for each image and head, kept in cache.
//!
//! qkv [rows, 3 · width], a row holding q, k, v and within each the heads one after the other, as timm packs them; image i owns
//! the rows `offsets[i]..offsets[i + 1]`, so images may have any number of tokens. Products are in the parameters' precision, the softmax in f32,
//! the result in qkv's precision. The backward pass computes the scores again: they are cheaper than the memory they would fill.

use super::check_offsets;
use super::store::Rows;
use crate::cpu::product::{Number, Operand, Panels, Precision, Values, product_serial};
use crate::cpu::threads::parallel;
use crate::cpu::vector::{dot, exp, max, sum_by, wide};
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// qkv [rows, 3 · width], offsets [images + 1] -> [rows, width].
    pub fn attention(&mut self, qkv: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
        let (rows, width) = (qkv.value.rows(), qkv.value.width() / 3);
        assert_eq!(qkv.value.width(), 3 * width, "a row holds q, k and v");
        assert_eq!(width % heads, 0, "heads divide the width");
        check_offsets(offsets, rows);
        let precision = self.precision();
        let mut y = Tensor::stale_in(qkv.value.precision(), [rows, width]);
        {
            let y = Rows::of(&mut y);
            for_each_head(&qkv.value, precision, offsets, heads, |head| {
                let p = head.rounded(head.probabilities());
                head.product(
                    head.scores(&p),
                    head.part(2),
                    1.0,
                    #[inline(always)]
                    |token, column, values: &[f32]| {
                        // SAFETY: a row of this image alone, columns of this head alone; images do not overlap (`check_offsets`).
                        unsafe { y.put(head.row + token, head.column + column, values) };
                    },
                );
            });
        }
        if !self.wants_gradient(&[qkv], &[]) {
            return Var::constant(y);
        }
        let (qkv, offsets) = (qkv.clone(), offsets.clone());
        self.record(y, move |dy, pass| {
            let mut dqkv = Tensor::stale_in(qkv.value.precision(), qkv.value.dims());
            {
                let dqkv = Rows::of(&mut dqkv);
                for_each_head(&qkv.value, precision, &offsets, heads, |head| head.backward(&dy, &dqkv));
            }
            pass.add(qkv.node(), dqkv);
        })
    }
}

/// One head of one image.
struct Head<'a> {
    qkv: Values<'a>,
    precision: Precision,
    width: usize,
    /// First row of the image.
    row: usize,
    tokens: usize,
    /// First column of the head.
    column: usize,
    /// Width of a head.
    size: usize,
}

/// The heads of an image are one block: they share the rows of qkv.
fn for_each_head(qkv: &Tensor, precision: Precision, offsets: &[usize], heads: usize, work: impl Fn(Head<'_>) + Sync) {
    let width = qkv.width() / 3;
    parallel(offsets.len() - 1, |image| {
        let (row, tokens) = (offsets[image], offsets[image + 1] - offsets[image]);
        if tokens == 0 {
            return;
        }
        for head in 0..heads {
            let size = width / heads;
            work(Head { qkv: qkv.values(), precision, width, row, tokens, column: head * size, size });
        }
    });
}

impl<'a> Head<'a> {
    /// q, k or v: [tokens, size].
    fn part(&self, which: usize) -> Operand<'a> {
        self.rows_of(self.qkv, 3 * self.width, which * self.width)
    }

    /// This head's rows and columns of a tensor of `stride` columns, in which the heads begin at `first`.
    fn rows_of<'v>(&self, values: Values<'v>, stride: usize, first: usize) -> Operand<'v> {
        Operand::strided(values.from(self.row * stride + first + self.column), self.tokens, self.size, stride)
    }

    /// Columns of a row of scores: whole tiles, zeros beyond the tokens, so that a product reads them as they lie.
    fn padded(&self) -> usize {
        self.tokens.next_multiple_of(32)
    }

    fn scores<'v>(&self, scores: &'v Tensor) -> Operand<'v> {
        Operand::with_zeros(scores.values(), self.tokens, self.tokens, self.padded())
    }

    /// s a·b; `store(row, column, values)` sees every part of a row.
    #[inline(always)]
    fn product(&self, a: Operand<'_>, b: Operand<'_>, s: f32, store: impl Fn(usize, usize, &[f32])) {
        product_serial(a, &Panels::new_serial(b, self.precision), |mut tile| {
            wide(
                #[inline(always)]
                || {
                    let (first, column) = (tile.row, tile.column);
                    for (i, values) in tile.rows().enumerate() {
                        values.iter_mut().for_each(|v| *v *= s);
                        store(first + i, column, values);
                    }
                },
            );
        });
    }

    /// s a·b where it has a row and a column a token, [tokens and more, padded].
    fn token_by_token(&self, a: Operand<'_>, b: Operand<'_>, s: f32) -> Tensor {
        // Whole strips of rows, too: what stands in those beyond the tokens nobody reads.
        let mut scores = Tensor::stale([self.tokens.next_multiple_of(16), self.padded()]);
        {
            let scores = Rows::of(&mut scores);
            // SAFETY: parts of one product, one after the other.
            self.product(
                a,
                b,
                s,
                #[inline(always)]
                |row, column, values: &[f32]| unsafe { scores.put(row, column, values) },
            );
        }
        scores.data_mut().chunks_exact_mut(self.padded()).take(self.tokens).for_each(|row| row[self.tokens..].fill(0.0));
        scores
    }

    /// Scores as a product takes them.
    fn rounded(&self, scores: Tensor) -> Tensor {
        if self.precision == Precision::F32 {
            return scores;
        }
        let mut rounded = Tensor::stale_in(Precision::Bf16, scores.dims());
        wide(
            #[inline(always)]
            || rounded.halves_mut().iter_mut().zip(scores.data()).for_each(|(r, s)| *r = s.half()),
        );
        rounded
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// softmax(q kᵀ / sqrt(d)), [tokens and more, padded].
    fn probabilities(&self) -> Tensor {
        let mut scores = self.token_by_token(self.part(0), self.part(1).t(), self.scale());
        wide(
            #[inline(always)]
            || {
                for row in scores.data_mut().chunks_exact_mut(self.padded()).take(self.tokens) {
                    // Whole vectors; what is beyond the tokens counts as nothing, and is 0 in the end.
                    let row = &mut row[..self.tokens.next_multiple_of(16)];
                    row[self.tokens..].fill(f32::NEG_INFINITY);
                    let top = max(row);
                    row.iter_mut().for_each(|s| *s = exp(*s - top));
                    row[self.tokens..].fill(0.0);
                    let inverse = 1.0 / sum_by([row], |[e]| e);
                    row.iter_mut().for_each(|s| *s *= inverse);
                }
            },
        );
        scores
    }

    /// With P the probabilities: dV = Pᵀ dO; dS = P (dP - Σ P dP), dP = dO Vᵀ; dQ = dS K / sqrt(d); dK = dSᵀ Q / sqrt(d).
    fn backward(&self, dy: &Tensor, dqkv: &Rows<'_>) {
        let p = self.probabilities();
        let d = self.rows_of(dy.values(), self.width, 0);
        let put = |which: usize, token: usize, column: usize, values: &[f32]| {
            // SAFETY: a row of this image alone, columns of this head alone, and of one of q, k, v at a time.
            unsafe { dqkv.put(self.row + token, which * self.width + self.column + column, values) };
        };
        let mut ds = self.token_by_token(d, self.part(2).t(), 1.0);
        wide(
            #[inline(always)]
            || {
                let rows = p.data().chunks_exact(self.padded()).zip(ds.data_mut().chunks_exact_mut(self.padded()));
                for (p, ds) in rows.take(self.tokens) {
                    let delta = dot(p, ds);
                    p.iter().zip(ds).for_each(|(p, ds)| *ds = p * (*ds - delta));
                }
            },
        );
        let (p, ds) = (self.rounded(p), self.rounded(ds));
        let (p, ds) = (self.scores(&p), self.scores(&ds));
        self.product(
            p.t(),
            d,
            1.0,
            #[inline(always)]
            |token, column, values| put(2, token, column, values),
        );
        self.product(
            ds,
            self.part(1),
            self.scale(),
            #[inline(always)]
            |token, column, values| put(0, token, column, values),
        );
        self.product(
            ds.t(),
            self.part(0),
            self.scale(),
            #[inline(always)]
            |token, column, values| put(1, token, column, values),
        );
    }
}
