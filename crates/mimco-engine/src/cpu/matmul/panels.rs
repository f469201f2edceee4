//! Matrices in panels: 32 columns each, in a panel a row of 32 words for every word of the inner dimension.
//!
//! A product takes its right factor so; and its left one, too, where the inner dimension goes down the columns of both, as in dW = dyᵀ x.
//! [`PanelRows`] writes them from what an operator has just worked out, row after row.

use super::words::{across, along, per_word, transpose};
use super::{Operand, PANEL, Precision, SIDE, Values};
use crate::cpu::buffer::Buffer;
use crate::element::Number;
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::wide;

/// Words of sixteen rows of a panel.
const SLAB: usize = SIDE * PANEL;

/// A matrix [inner, columns] in words, zeros up to whole tiles.
pub struct Panels {
    words: Buffer,
    precision: Precision,
    inner: usize,
    columns: usize,
}

impl Panels {
    /// Packs a matrix [inner, columns] in parallel.
    pub fn new(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.rows, b.columns, precision, false, true)
    }

    /// Packs the transpose of a matrix [columns, inner] in parallel.
    pub fn of_transpose(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.columns, b.rows, precision, true, true)
    }

    /// As [`Panels::new`], in this thread.
    pub fn new_serial(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.rows, b.columns, precision, false, false)
    }

    /// As [`Panels::of_transpose`], in this thread.
    pub fn of_transpose_serial(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.columns, b.rows, precision, true, false)
    }

    fn pack(b: Operand<'_>, inner: usize, columns: usize, precision: Precision, transposed: bool, in_parallel: bool) -> Panels {
        let mut panels = Panels::uninitialised(inner, columns, precision);
        let (count, slabs) = (columns.div_ceil(PANEL), panels.panel_words(inner) / SLAB);
        let words = Parts::new(panels.words.words_mut());
        let slab = |panel: usize, slab: usize| {
            // SAFETY: every slab is packed once.
            let out = unsafe { words.part((panel * slabs + slab) * SLAB, SLAB) };
            pack_slab(b, precision, transposed, slab, panel * PANEL, out);
        };
        // Along b's rows, as they lie in memory.
        let work = |i: usize| {
            if transposed { (0..slabs).for_each(|s| slab(i, s)) } else { (0..count).for_each(|panel| slab(panel, i)) }
        };
        let blocks = if transposed { count } else { slabs };
        if in_parallel {
            parallel(blocks, work)
        } else {
            (0..blocks).for_each(work)
        }
        panels
    }

    fn uninitialised(inner: usize, columns: usize, precision: Precision) -> Panels {
        let mut panels = Panels { words: Buffer::stale(0), precision, inner, columns };
        panels.words = Buffer::stale(columns.div_ceil(PANEL) * panels.panel_words(inner));
        panels
    }

    /// A matrix [inner, columns] that is yet to be written by [`Panels::rows_mut`].
    pub fn stale(inner: usize, columns: usize, precision: Precision) -> Panels {
        let mut panels = Panels::uninitialised(inner, columns, precision);
        let (len, written) = (panels.panel_words(inner), inner.div_ceil(precision.per_word()) * PANEL);
        panels.words.words_mut().chunks_exact_mut(len.max(1)).for_each(|panel| panel[written..].fill(0));
        panels
    }

    /// To write the rows of a stale matrix, several threads at a time.
    pub fn rows_mut(&mut self) -> PanelRows<'_> {
        let panel = self.panel_words(self.inner);
        PanelRows { precision: self.precision, panel, inner: self.inner, words: Parts::new(self.words.words_mut()) }
    }

    /// Words of a panel of so many rows.
    pub(super) fn panel_words(&self, inner: usize) -> usize {
        inner.div_ceil(SIDE * self.precision.per_word()) * SLAB
    }

    /// What the product is worked out in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Rows of the matrix.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The words of `inner` rows from `first`, a multiple of a tile's, in one panel.
    pub(super) fn part(&self, panel: usize, first: usize, inner: usize) -> &[u32] {
        &self.from(panel, first)[..self.panel_words(inner)]
    }

    /// The words from row `first`, a multiple of a tile's, of a panel on.
    pub(super) fn from(&self, panel: usize, first: usize) -> &[u32] {
        &self.words.words()[panel * self.panel_words(self.inner) + self.panel_words(first)..]
    }
}

/// Packs sixteen rows of words of one panel.
fn pack_slab(b: Operand<'_>, precision: Precision, transposed: bool, slab: usize, column: usize, out: &mut [u32]) {
    wide(
        #[inline(always)]
        || match (b.values, precision) {
            (Values::F32(values), Precision::F32) => pack::<f32, false>(b, values, transposed, slab, column, out),
            (Values::F32(values), Precision::Bf16) => pack::<f32, true>(b, values, transposed, slab, column, out),
            (Values::Bf16(values), Precision::F32) => pack::<u16, false>(b, values, transposed, slab, column, out),
            (Values::Bf16(values), Precision::Bf16) => pack::<u16, true>(b, values, transposed, slab, column, out),
        },
    );
}

#[inline(always)]
fn pack<T: Number, const BF16: bool>(b: Operand<'_>, values: &[T], transposed: bool, slab: usize, column: usize, out: &mut [u32]) {
    let inner = slab * SIDE * per_word(BF16)..(slab + 1) * SIDE * per_word(BF16);
    if transposed {
        let inner = inner.start..inner.end.min(b.columns);
        for half in [0, SIDE] {
            let mut tile = [[0; SIDE]; SIDE];
            for (i, tile) in tile.iter_mut().enumerate() {
                let row = column + half + i;
                if row < b.rows {
                    along::<T, BF16>(&values[row * b.stride + inner.start..][..inner.len()], tile);
                }
            }
            transpose(tile.as_flattened(), SIDE, &mut out[half..], PANEL);
        }
        return;
    }
    let columns = column..(column + PANEL).min(b.columns);
    let row = |row: usize| if row < b.rows { &values[row * b.stride + columns.start..][..columns.len()] } else { &[] };
    for (i, out) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let first = inner.start + i * per_word(BF16);
        across::<T, BF16>(row(first), row(first + per_word(BF16) - 1), out);
    }
}

/// Panels that are being written.
pub struct PanelRows<'a> {
    words: Parts<'a, u32>,
    precision: Precision,
    panel: usize,
    inner: usize,
}

impl PanelRows<'_> {
    /// Puts `upper` into an even row from `column`, the first of a panel, on, and `lower` into the row that follows; the last row may stand alone.
    ///
    /// # Safety
    /// Nobody else may write or read the same two rows of these panels at the same time.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, column: usize, upper: &[f32], lower: &[f32]) {
        assert!(row.is_multiple_of(2) && column.is_multiple_of(PANEL) && row < self.inner, "pairs of rows, whole panels");
        let lower = if row + 1 < self.inner { lower } else { &[] };
        for first in (0..upper.len()).step_by(PANEL) {
            let columns = first..(first + PANEL).min(upper.len());
            let start = (column + first) / PANEL * self.panel;
            let (upper, lower) = (&upper[columns.clone()], if lower.is_empty() { lower } else { &lower[columns] });
            // SAFETY: the caller's promise.
            unsafe {
                match self.precision {
                    Precision::Bf16 => across::<f32, true>(upper, lower, self.row(start + row / 2 * PANEL)),
                    Precision::F32 => {
                        across::<f32, false>(upper, &[], self.row(start + row * PANEL));
                        if !lower.is_empty() {
                            across::<f32, false>(lower, &[], self.row(start + (row + 1) * PANEL));
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `put`.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller keeps rows apart")]
    unsafe fn row(&self, start: usize) -> &mut [u32; PANEL] {
        // SAFETY: the caller's promise; inside by `part`'s own check.
        unsafe { &mut *self.words.part(start, PANEL).as_mut_ptr().cast() }
    }
}
