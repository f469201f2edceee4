//! The gradient of a layer's outputs, in the form that dW = dyᵀ x and db read.

use super::branch::Branch;
use super::column_sums::{ColumnParts, ColumnSums};
use crate::cpu::buffer::Buffer;
use crate::cpu::matmul::{PANEL, PanelWriter, Panels, Tile};
use crate::cpu::rows::RowWriter;
use crate::cpu::simd::with_simd;
use crate::cpu::vector::{combine, gelu_and_derivative};
use crate::element::{Element, Precision, Values};
use crate::tensor::Tensor;
use std::ops::Range;

/// Gradient of a layer's outputs: packed rows and the sums of the columns.
pub(in crate::ops) struct OutputGrad {
    pub panels: Panels,
    pub sums: ColumnSums,
}

/// Writes an [`OutputGrad`] from several threads.
pub(in crate::ops) struct OutputGradWriter<'a> {
    panels: PanelWriter<'a>,
    sums: ColumnParts<'a>,
    width: usize,
}

impl OutputGrad {
    /// Allocates the gradient of [rows, width], to be written through [`OutputGrad::writer`].
    pub fn uninit(rows: usize, width: usize, precision: Precision) -> OutputGrad {
        OutputGrad { panels: Panels::uninit(rows, width, precision), sums: ColumnSums::new(rows, width) }
    }

    /// Returns a writer, for several threads.
    pub fn writer(&mut self) -> OutputGradWriter<'_> {
        let width = self.panels.columns();
        OutputGradWriter { panels: self.panels.writer(), sums: self.sums.parts(), width }
    }
}

impl OutputGradWriter<'_> {
    /// Writes some of a branch's rows of s dy, times GELU's derivative at `before` if that is
    /// given.
    ///
    /// `out` gets the same rows (times γ), from row `first` on, as the left factor of dx = dy W.
    ///
    /// # Safety
    /// No other thread may access the same rows, which begin at a multiple of 32.
    pub unsafe fn write_rows(
        &self,
        block: Range<usize>,
        (dy, branch): (&Tensor, Branch<'_>),
        before: Option<&Tensor>,
        (out, first): (&RowWriter<'_>, usize),
    ) {
        let width = self.width;
        let mut pair = [Buffer::uninit(width), Buffer::uninit(width)];
        let gamma = branch.gamma(0, width);
        let mut scaled = Buffer::uninit(gamma.map_or(0, <[f32]>::len));
        // SAFETY: ensured by the caller.
        let sums = unsafe { self.sums.of_rows(block.start, 0, width) };
        for upper in block.clone().step_by(2) {
            with_simd(
                #[inline(always)]
                || {
                    for (row, values) in (upper..block.end).zip(&mut pair) {
                        let start = branch.row(row) * width;
                        match dy.values() {
                            Values::F32(dy) => load(values, &dy[start..][..width]),
                            Values::Bf16(dy) => load(values, &dy[start..][..width]),
                        }
                        let s = branch.scale();
                        if s != 1.0 {
                            values.iter_mut().for_each(|v| *v *= s);
                        }
                        match before.map(Tensor::values) {
                            None => {}
                            Some(Values::F32(before)) => times_derivative(values, &before[row * width..][..width]),
                            Some(Values::Bf16(before)) => times_derivative(values, &before[row * width..][..width]),
                        }
                        sums.iter_mut().zip(&values[..]).for_each(|(s, v)| *s += v);
                        let values = match gamma {
                            None => &values[..],
                            Some(gamma) => {
                                scaled.iter_mut().zip(&values[..]).zip(gamma).for_each(|((s, v), g)| *s = v * g);
                                &scaled[..]
                            }
                        };
                        // SAFETY: ensured by the caller.
                        unsafe { out.write(first + row - block.start, 0, values) };
                    }
                    // SAFETY: ensured by the caller.
                    unsafe { self.panels.write(upper, 0, &pair[0], &pair[1]) };
                },
            );
        }
    }

    /// Turns a tile of the gradient of GELU's results into that of its arguments, and writes it.
    ///
    /// `before` has GELU's arguments in sheets, [32-column sheet · rows + row, 32]. `hidden` gets
    /// GELU's results again, `out` the block's rows as the left factor of dx = dy W.
    ///
    /// # Safety
    /// No other thread may access the same rows and columns of the block, which begins at a
    /// multiple of 32.
    #[inline(always)]
    pub unsafe fn write_through_gelu(
        &self,
        block: &Range<usize>,
        tile: &mut Tile<'_>,
        before: &Tensor,
        hidden: &PanelWriter<'_>,
        out: &RowWriter<'_>,
    ) {
        let (first, column, columns) = (tile.row, tile.column, tile.columns);
        let rows = before.rows() / self.width.div_ceil(PANEL);
        // SAFETY: ensured by the caller.
        let sums = unsafe { self.sums.of_rows(block.start, column, columns) };
        for (i, mut pair) in tile.pairs().enumerate() {
            let row = block.start + first + 2 * i;
            let mut activated = [[0.0; PANEL]; 2];
            for (i, (values, activated)) in pair.iter_mut().zip(&mut activated).enumerate().filter(|(_, (values, _))| !values.is_empty()) {
                let start = (column / PANEL * rows + row + i) * PANEL;
                match before.values() {
                    Values::F32(before) => activate(values, &before[start..][..PANEL], activated),
                    Values::Bf16(before) => activate(values, &before[start..][..PANEL], activated),
                }
                combine(sums, values, |s, v| s + v);
                // SAFETY: ensured by the caller.
                unsafe { out.write(row + i - block.start, column, values) };
            }
            // SAFETY: ensured by the caller.
            unsafe {
                self.panels.write(row, column, pair[0], pair[1]);
                hidden.write(row, column, &activated[0][..columns], &activated[1][..columns]);
            }
        }
    }
}

#[inline(always)]
fn load<T: Element>(out: &mut [f32], values: &[T]) {
    out.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_f32());
}

#[inline(always)]
fn times_derivative<T: Element>(values: &mut [f32], before: &[T]) {
    values.iter_mut().zip(before).for_each(|(d, x)| *d *= gelu_and_derivative(x.to_f32()).1);
}

/// Multiplies values by gelu'(before) and sets activated = gelu(before).
#[inline(always)]
fn activate<T: Element>(values: &mut [f32], before: &[T], activated: &mut [f32; PANEL]) {
    for ((d, x), a) in values.iter_mut().zip(before).zip(activated) {
        let (y, derivative) = gelu_and_derivative(x.to_f32());
        *d *= derivative;
        *a = y;
    }
}
