//! Packed matrices: panels of 32 columns, in a panel 32 words for each word of the inner dimension.
//!
//! The right factor of a product is packed; so is the left one if the inner dimension runs down the
//! columns of both, as in dW = dyᵀ x. [`PanelWriter`] packs rows as an operator computes them.

use super::layout::{PANEL, SIDE, SLAB};
use super::operand::Operand;
use super::words::{across, along, transpose};
use crate::cpu::buffer::Buffer;
use crate::cpu::simd::with_simd;
use crate::cpu::threads::{DisjointSlices, parallel};
use crate::element::{Element, Precision, Values, per_word};
use half::bf16;

/// A packed matrix [inner, columns], with zeros up to whole slabs.
pub(crate) struct Panels {
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

    /// Packs a matrix [inner, columns] in this thread.
    pub fn new_serial(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.rows, b.columns, precision, false, false)
    }

    /// Packs the transpose of a matrix [columns, inner] in this thread.
    pub fn of_transpose_serial(b: Operand<'_>, precision: Precision) -> Panels {
        Panels::pack(b, b.columns, b.rows, precision, true, false)
    }

    fn pack(b: Operand<'_>, inner: usize, columns: usize, precision: Precision, transposed: bool, in_parallel: bool) -> Panels {
        let mut panels = Panels::uninit_all(inner, columns, precision);
        let (count, slabs) = (columns.div_ceil(PANEL), panels.panel_words(inner) / SLAB);
        let words = DisjointSlices::new(panels.words.words_mut());
        let slab = |panel: usize, slab: usize| {
            // SAFETY: every slab is packed once.
            let out = unsafe { words.part((panel * slabs + slab) * SLAB, SLAB) };
            pack_slab(b, precision, transposed, slab, panel * PANEL, out);
        };
        // The slabs are visited along b's rows, in the order of memory.
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

    /// Allocates a matrix without setting any word.
    fn uninit_all(inner: usize, columns: usize, precision: Precision) -> Panels {
        let mut panels = Panels { words: Buffer::uninit(0), precision, inner, columns };
        panels.words = Buffer::uninit(columns.div_ceil(PANEL) * panels.panel_words(inner));
        panels
    }

    /// Allocates a matrix [inner, columns], to be written through [`Panels::writer`].
    pub fn uninit(inner: usize, columns: usize, precision: Precision) -> Panels {
        let mut panels = Panels::uninit_all(inner, columns, precision);
        let (len, written) = (panels.panel_words(inner), inner.div_ceil(precision.per_word()) * PANEL);
        panels.words.words_mut().chunks_exact_mut(len.max(1)).for_each(|panel| panel[written..].fill(0));
        panels
    }

    /// Returns a writer of the rows, for several threads.
    pub fn writer(&mut self) -> PanelWriter<'_> {
        let panel = self.panel_words(self.inner);
        PanelWriter { precision: self.precision, panel, inner: self.inner, words: DisjointSlices::new(self.words.words_mut()) }
    }

    /// Number of words of a panel of `inner` rows.
    pub(super) fn panel_words(&self, inner: usize) -> usize {
        inner.div_ceil(SIDE * self.precision.per_word()) * SLAB
    }

    /// Precision of the product.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Number of rows of the matrix.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Number of columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the words of `inner` rows of a panel from `first` on, a multiple of a slab's rows.
    pub(super) fn part(&self, panel: usize, first: usize, inner: usize) -> &[u32] {
        &self.from(panel, first)[..self.panel_words(inner)]
    }

    /// Returns the words from row `first` of a panel on, a multiple of a slab's rows.
    pub(super) fn from(&self, panel: usize, first: usize) -> &[u32] {
        &self.words.words()[panel * self.panel_words(self.inner) + self.panel_words(first)..]
    }
}

/// Packs one slab.
fn pack_slab(b: Operand<'_>, precision: Precision, transposed: bool, slab: usize, column: usize, out: &mut [u32]) {
    with_simd(
        #[inline(always)]
        || match (b.values, precision) {
            (Values::F32(values), Precision::F32) => pack::<f32, false>(b, values, transposed, slab, column, out),
            (Values::F32(values), Precision::Bf16) => pack::<f32, true>(b, values, transposed, slab, column, out),
            (Values::Bf16(values), Precision::F32) => pack::<bf16, false>(b, values, transposed, slab, column, out),
            (Values::Bf16(values), Precision::Bf16) => pack::<bf16, true>(b, values, transposed, slab, column, out),
        },
    );
}

#[inline(always)]
fn pack<T: Element, const BF16: bool>(b: Operand<'_>, values: &[T], transposed: bool, slab: usize, column: usize, out: &mut [u32]) {
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

/// Writes rows of panels from several threads.
pub(crate) struct PanelWriter<'a> {
    words: DisjointSlices<'a, u32>,
    precision: Precision,
    panel: usize,
    inner: usize,
}

impl PanelWriter<'_> {
    /// Writes `upper` to an even row and `lower` to the next row, from `column` on, the first of a
    /// panel. `lower` is ignored after the last row.
    ///
    /// # Safety
    /// No other thread may access the same two rows of these panels at the same time.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, column: usize, upper: &[f32], lower: &[f32]) {
        assert!(row.is_multiple_of(2) && column.is_multiple_of(PANEL) && row < self.inner, "pairs of rows, whole panels");
        let lower = if row + 1 < self.inner { lower } else { &[] };
        for first in (0..upper.len()).step_by(PANEL) {
            let columns = first..(first + PANEL).min(upper.len());
            let start = (column + first) / PANEL * self.panel;
            let (upper, lower) = (&upper[columns.clone()], if lower.is_empty() { lower } else { &lower[columns] });
            // SAFETY: ensured by the caller.
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
    /// As for [`PanelWriter::write`].
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller ensures that rows do not overlap")]
    unsafe fn row(&self, start: usize) -> &mut [u32; PANEL] {
        // SAFETY: ensured by the caller; `part` checks the range.
        unsafe { &mut *self.words.part(start, PANEL).as_mut_ptr().cast() }
    }
}
