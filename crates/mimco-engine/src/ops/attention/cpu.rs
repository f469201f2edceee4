//! Attention on the CPU: scores of some rows of one head at a time stay in cache.
//!
//! The backward pass computes the scores again from the largest score and the sum of each row,
//! which costs less than their memory.

use crate::cpu::buffer::Buffer;
use crate::cpu::matmul::{Left, Operand, PANEL, Panels, Tile, product_in_sheets, product_serial};
use crate::cpu::rows::RowWriter;
use crate::cpu::simd::with_simd;
use crate::cpu::threads::{DisjointSlices, parallel};
use crate::cpu::vector::{Lanes, combine, exp};
use crate::element::{Element, Precision, Values};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// Number of query tokens processed at a time: few enough for their scores to stay in the
/// first-level cache, or close to it for images of many tokens.
const ROWS: usize = 32;

pub(super) fn attention(tape: &mut Tape<'_>, qkv: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
    let (rows, width) = (qkv.value.rows(), qkv.value.width() / 3);
    let precision = tape.precision();
    let mut y = Tensor::uninit_in(qkv.value.precision(), [rows, width]);
    let mut softmax = Tensor::uninit([rows, heads, 2]); // largest score and 1 / sum of each row of scores
    {
        let (y, softmax) = (RowWriter::new(&mut y), DisjointSlices::new(softmax.data_mut()));
        for_each_head(&qkv.value, precision, offsets, heads, |head| match precision {
            Precision::F32 => head.forward::<f32>(&y, &softmax),
            Precision::Bf16 => head.forward::<bf16>(&y, &softmax),
        });
    }
    if !tape.wants_gradient(&[qkv], &[]) {
        return Var::constant(y);
    }
    let (qkv, offsets) = (qkv.clone(), offsets.clone());
    tape.record(y, move |dy, pass| {
        let mut dqkv = Tensor::uninit_in(qkv.value.precision(), qkv.value.dims());
        {
            let dqkv = RowWriter::new(&mut dqkv);
            for_each_head(&qkv.value, precision, &offsets, heads, |head| match precision {
                Precision::F32 => head.backward::<f32>(&dy, softmax.data(), &dqkv),
                Precision::Bf16 => head.backward::<bf16>(&dy, softmax.data(), &dqkv),
            });
        }
        pass.add(qkv.node(), dqkv);
    })
}

/// One head of one image.
struct Head<'a> {
    qkv: Values<'a>,
    precision: Precision,
    width: usize,
    /// First row of the image.
    row: usize,
    tokens: usize,
    /// Index of the head.
    index: usize,
    /// Number of heads.
    heads: usize,
}

/// Runs `work` for each head of each image. The heads of an image are one block of work, since they
/// share the rows of qkv.
fn for_each_head(qkv: &Tensor, precision: Precision, offsets: &[usize], heads: usize, work: impl Fn(Head<'_>) + Sync) {
    let width = qkv.width() / 3;
    parallel(offsets.len() - 1, |image| {
        let (row, tokens) = (offsets[image], offsets[image + 1] - offsets[image]);
        if tokens == 0 {
            return;
        }
        for index in 0..heads {
            work(Head { qkv: qkv.values(), precision, width, row, tokens, index, heads });
        }
    });
}

/// Some rows of scores: in sheets, as a product writes them, and in rows of the products'
/// precision, as the next product reads them.
struct Scores {
    sheets: Buffer,
    rows: Buffer,
    len: usize,
}

impl Scores {
    fn uninit(head: &Head<'_>) -> Scores {
        let len = head.tokens.next_multiple_of(PANEL);
        Scores { sheets: Buffer::uninit(ROWS * len), rows: Buffer::uninit(ROWS * len), len }
    }

    /// Computes a·b in sheets.
    fn compute(&mut self, a: Operand<'_>, b: &Panels, rows: usize) {
        let sheet = rows.next_multiple_of(16) * PANEL;
        product_in_sheets(a, b, &mut self.sheets[..self.len / PANEL * sheet]);
    }
}

impl<'a> Head<'a> {
    /// Width of the head.
    fn size(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size() as f32).sqrt()
    }

    /// Some tokens of q (0), k (1) or v (2), [tokens, size].
    fn part(&self, which: usize, tokens: Range<usize>) -> Operand<'a> {
        self.rows_of(self.qkv, 3 * self.width, which * self.width, tokens)
    }

    /// Some tokens of this head's columns in a tensor of `stride` columns whose heads begin at
    /// column `first`.
    fn rows_of<'v>(&self, values: Values<'v>, stride: usize, first: usize, tokens: Range<usize>) -> Operand<'v> {
        let start = (self.row + tokens.start) * stride + first + self.index * self.size();
        Operand::strided(values.from(start), tokens.len(), self.size(), stride)
    }

    /// Blocks of query tokens.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let tokens = self.tokens;
        (0..tokens).step_by(ROWS).map(move |first| first..(first + ROWS).min(tokens))
    }

    /// Index of a token's largest score and sum in the kept softmax.
    fn softmax_index(&self, token: usize) -> usize {
        2 * ((self.row + token) * self.heads + self.index)
    }

    fn forward<T: Element>(&self, y: &RowWriter<'_>, softmax: &DisjointSlices<'_, f32>) {
        let k = Panels::of_transpose_serial(self.part(1, 0..self.tokens), self.precision);
        let v = Panels::new_serial(self.part(2, 0..self.tokens), self.precision);
        let mut scores = Scores::uninit(self);
        let mut inverse = [0.0; ROWS];
        for tokens in self.blocks() {
            scores.compute(self.part(0, tokens.clone()), &k, tokens.len());
            let (len, rows) = (scores.len, bytemuck::cast_slice_mut::<_, T>(&mut scores.rows));
            for (i, (token, rows)) in tokens.clone().zip(rows.chunks_exact_mut(len)).enumerate() {
                let row = ScoreRow { sheets: &mut scores.sheets, row: i, rows: tokens.len(), tokens: self.tokens };
                // SAFETY: each token has its own elements.
                let kept = unsafe { softmax.part(self.softmax_index(token), 2) };
                with_simd(
                    #[inline(always)]
                    || row.softmax(self.scale(), rows, kept),
                );
                inverse[i] = kept[1];
            }
            let p = Operand::with_zeros(T::values(rows), tokens.len(), self.tokens, len);
            product_serial(p, &v, |mut tile| {
                tile.each_row(
                    #[inline(always)]
                    |i, column, values| {
                        values.iter_mut().for_each(|v| *v *= inverse[i]);
                        // SAFETY: a row of this image, columns of this head; images do not overlap
                        // (`check_offsets`).
                        unsafe { y.write(self.row + tokens.start + i, self.index * self.size() + column, values) };
                    },
                );
            });
        }
    }

    /// Computes the gradients of q, k and v. With P the probabilities and dP = dO Vᵀ,
    /// dS = P (dP - Σ P dP); dQ = dS K / sqrt(d); dK = dSᵀ Q / sqrt(d); dV = Pᵀ dO.
    fn backward<T: Element>(&self, dy: &Tensor, softmax: &[f32], dqkv: &RowWriter<'_>) {
        let all = 0..self.tokens;
        let d = |tokens| self.rows_of(dy.values(), self.width, 0, tokens);
        let k_columns = Panels::of_transpose_serial(self.part(1, all.clone()), self.precision);
        let v_columns = Panels::of_transpose_serial(self.part(2, all.clone()), self.precision);
        let k = Panels::new_serial(self.part(1, all.clone()), self.precision);
        let [mut p, mut ds] = [0, 1].map(|_| Panels::uninit(self.tokens, self.tokens, self.precision));
        let [mut scores, mut dscores] = [Scores::uninit(self), Scores::uninit(self)];
        let write = |which: usize, first: usize, scale: f32, mut tile: Tile<'_>| {
            tile.each_row(
                #[inline(always)]
                |i, column, values| {
                    values.iter_mut().for_each(|v| *v *= scale);
                    // SAFETY: a row of this image, columns of this head, and of one of q, k, v at a
                    // time.
                    unsafe { dqkv.write(self.row + first + i, which * self.width + self.index * self.size() + column, values) };
                },
            );
        };
        for tokens in self.blocks() {
            let count = tokens.len();
            scores.compute(self.part(0, tokens.clone()), &k_columns, count);
            dscores.compute(d(tokens.clone()), &v_columns, count);
            for (i, token) in tokens.clone().enumerate() {
                let row = ScoreRow { sheets: &mut scores.sheets, row: i, rows: count, tokens: self.tokens };
                let drow = ScoreRow { sheets: &mut dscores.sheets, row: i, rows: count, tokens: self.tokens };
                let kept = &softmax[self.softmax_index(token)..][..2];
                with_simd(
                    #[inline(always)]
                    || row.backward(self.scale(), kept, drow),
                );
            }
            let len = dscores.len;
            let rows = bytemuck::cast_slice_mut::<_, T>(&mut dscores.rows);
            let sheet = count.next_multiple_of(16) * PANEL;
            {
                let (p, ds) = (p.writer(), ds.writer());
                with_simd(
                    #[inline(always)]
                    || {
                        for (sheet, column) in (0..len).step_by(PANEL).map(|column| (column / PANEL * sheet, column)) {
                            for i in (0..count).step_by(2) {
                                let pair = |sheets: &Buffer| [0, 1].map(|j| sheets[sheet + (i + j) * PANEL..].as_chunks::<PANEL>().0[0]);
                                let ([p0, p1], [d0, d1]) = (pair(&scores.sheets), pair(&dscores.sheets));
                                // SAFETY: the panels belong to this thread, which writes pairs of
                                // rows one after the other.
                                unsafe {
                                    p.write(tokens.start + i, column, &p0, &p1);
                                    ds.write(tokens.start + i, column, &d0, &d1);
                                }
                                T::convert_from(&mut rows[i * len + column..][..PANEL], &d0);
                                T::convert_from(&mut rows[(i + 1) * len + column..][..PANEL], &d1);
                            }
                        }
                    },
                );
            }
            let rows = Operand::with_zeros(T::values(rows), count, self.tokens, len);
            product_serial(rows, &k, |tile| write(0, tokens.start, self.scale(), tile));
        }
        let q = Panels::new_serial(self.part(0, all.clone()), self.precision);
        product_serial(Left::Columns(&ds), &q, |tile| write(1, 0, self.scale(), tile));
        product_serial(Left::Columns(&p), &Panels::new_serial(d(all), self.precision), |tile| write(2, 0, 1.0, tile));
    }
}

/// A row of scores in sheets.
struct ScoreRow<'a> {
    sheets: &'a mut [f32],
    row: usize,
    rows: usize,
    /// Number of scores in the row; the elements after them become 0.
    tokens: usize,
}

impl ScoreRow<'_> {
    /// The 32 scores from column 32 · sheet on.
    #[inline(always)]
    fn chunk(&mut self, sheet: usize) -> &mut [f32; PANEL] {
        let start = sheet * self.rows.next_multiple_of(16) * PANEL + self.row * PANEL;
        let (chunk, _) = self.sheets[start..].as_chunks_mut::<PANEL>();
        &mut chunk[0]
    }

    #[inline(always)]
    fn sheets(&self) -> Range<usize> {
        0..self.tokens.div_ceil(PANEL)
    }

    /// Writes exp(scale (s - max)), not divided by its sum, to `out`, and max and 1 / sum to
    /// `kept`.
    #[inline(always)]
    fn softmax<T: Element>(mut self, scale: f32, out: &mut [T], kept: &mut [f32]) {
        let last = self.tokens.div_ceil(PANEL) - 1;
        let after_end = self.tokens - last * PANEL;
        self.chunk(last)[after_end..].fill(f32::NEG_INFINITY);
        let mut top = Lanes::of(f32::NEG_INFINITY);
        for sheet in self.sheets() {
            top.each(self.chunk(sheet), |top, s| if s > top { s } else { top });
        }
        let top = top.fold(f32::max);
        let mut sum = Lanes::of(0.0);
        for sheet in self.sheets() {
            let chunk = self.chunk(sheet);
            exponentials(chunk, scale, top, 1.0);
            if sheet == last {
                chunk[after_end..].fill(0.0);
            }
            sum.each(chunk, |sum, e| sum + e);
            T::convert_from(&mut out[sheet * PANEL..][..PANEL], chunk);
        }
        kept.copy_from_slice(&[top, 1.0 / sum.fold(|a, b| a + b)]);
    }

    /// Turns s into P = exp(scale (s - max)) / sum, and dP in `d` into P (dP - Σ P dP).
    #[inline(always)]
    fn backward(mut self, scale: f32, kept: &[f32], mut d: ScoreRow<'_>) {
        let (top, inverse) = (kept[0], kept[1]);
        let last = self.tokens.div_ceil(PANEL) - 1;
        let after_end = self.tokens - last * PANEL;
        let mut delta = Lanes::of(0.0);
        for sheet in self.sheets() {
            let (p, d) = (self.chunk(sheet), d.chunk(sheet));
            exponentials(p, scale, top, inverse);
            if sheet == last {
                p[after_end..].fill(0.0);
            }
            let mut products = *p;
            combine(&mut products, d, |p, d| p * d);
            delta.each(&products, |sum, x| sum + x);
        }
        let delta = delta.fold(|a, b| a + b);
        for sheet in self.sheets() {
            let (p, d) = (self.chunk(sheet), d.chunk(sheet));
            combine(d, p, |d, p| p * (d - delta));
        }
    }
}

/// Sets s = factor · exp(scale (s - top)).
#[inline(always)]
fn exponentials(scores: &mut [f32; PANEL], scale: f32, top: f32, factor: f32) {
    for scores in scores.as_chunks_mut::<16>().0 {
        let mut powers = *scores;
        powers.iter_mut().for_each(|s| *s = exp(scale * (*s - top)) * factor);
        *scores = powers;
    }
}
