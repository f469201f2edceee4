//! The left factor as the kernels read it, in strips of sixteen rows.

use super::layout::{PANEL, SIDE, SLAB, TILE};
use super::operand::Operand;
use super::panels::Panels;
use super::words::{along, transpose};
use crate::cpu::buffer::Buffer;
use crate::cpu::simd::with_simd;
use crate::element::{Element, Precision, Values, per_word};
use half::bf16;
use std::ops::Range;

/// The left factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Row-major.
    Rows(Operand<'a>),
    /// Packed transpose, whose columns are the rows.
    Columns(&'a Panels),
}

impl<'a> From<Operand<'a>> for Left<'a> {
    fn from(rows: Operand<'a>) -> Left<'a> {
        Left::Rows(rows)
    }
}

impl Left<'_> {
    /// Number of rows of the product.
    pub fn rows(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.rows,
            Left::Columns(panels) => panels.columns(),
        }
    }

    /// Length of the inner dimension.
    pub fn inner(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.columns,
            Left::Columns(panels) => panels.inner(),
        }
    }
}

/// Strips of words with strides.
///
/// Word (row, inner) of strip i is at
/// i / 2 · `pair` + i % 2 · `odd` + row · `row` + inner / 16 · `tile` + inner % 16 · `inner`.
pub(super) struct Strips<'a> {
    words: &'a [u32],
    pair: usize,
    odd: usize,
    pub row: usize,
    pub tile: usize,
    pub inner: usize,
}

impl<'a> Strips<'a> {
    /// Returns the words from strip i on. A kernel may read its sixteen rows up to inner word
    /// `inner` - 1.
    pub fn from(&self, i: usize, inner: usize) -> &[u32] {
        let words = &self.words[i / 2 * self.pair + i % 2 * self.odd..];
        let last = (SIDE - 1) * self.row + (inner / SIDE - 1) * self.tile + (SIDE - 1) * self.inner;
        assert!(inner.is_multiple_of(SIDE) && last < words.len(), "a strip outside its words");
        words
    }

    /// Wraps tiles of 16 x 16 words, `strip` words to a strip.
    fn in_tiles(words: &'a [u32], strip: usize) -> Strips<'a> {
        Strips { words, pair: 2 * strip, odd: strip, row: SIDE, tile: TILE, inner: 1 }
    }
}

/// Returns rows (from a multiple of 32 on) and inner elements of `a` as strips.
///
/// They are read in place if the layout allows it; then the words after the last row stand in for
/// the missing rows of its strip, whose sums are not used. Else they are packed into tiles in
/// `packed`, with zeros after the end. `row_major`: whether the kernel needs row-major tiles.
pub(super) fn strips<'a>(
    row_major: bool,
    precision: Precision,
    a: Left<'a>,
    rows: Range<usize>,
    inner: Range<usize>,
    packed: &'a mut Buffer,
) -> Strips<'a> {
    let tiles = inner.len().div_ceil(SIDE * precision.per_word());
    let count = rows.len().div_ceil(SIDE);
    let mut reserve = |count: usize| {
        if packed.len() < count * tiles * TILE {
            *packed = Buffer::uninit(count * tiles * TILE);
        }
    };
    match a {
        Left::Rows(a) => {
            if let Some(strips) = in_place(a, precision, &rows, &inner) {
                return strips;
            }
            reserve(count);
            for (i, words) in packed.words_mut()[..count * tiles * TILE].chunks_exact_mut((tiles * TILE).max(1)).enumerate() {
                let rows = rows.start + i * SIDE..(rows.start + (i + 1) * SIDE).min(rows.end);
                match (a.values, precision) {
                    (Values::F32(values), Precision::F32) => pack::<f32, false>(a, values, rows, &inner, words),
                    (Values::F32(values), Precision::Bf16) => pack::<f32, true>(a, values, rows, &inner, words),
                    (Values::Bf16(values), Precision::F32) => pack::<bf16, false>(a, values, rows, &inner, words),
                    (Values::Bf16(values), Precision::Bf16) => pack::<bf16, true>(a, values, rows, &inner, words),
                }
            }
        }
        Left::Columns(a) => {
            assert!(
                rows.start.is_multiple_of(PANEL) && a.precision() == precision,
                "rows from a whole panel on, in the precision of the right factor"
            );
            let panel = a.panel_words(a.inner());
            if !row_major {
                let words = if tiles == 0 { &[] } else { a.from(rows.start / PANEL, inner.start) };
                return Strips { words, pair: panel, odd: SIDE, row: 1, tile: SLAB, inner: PANEL };
            }
            reserve(count);
            for (i, words) in packed.words_mut()[..count * tiles * TILE].chunks_exact_mut((tiles * TILE).max(1)).enumerate() {
                let from = &a.from(rows.start / PANEL + i / 2, inner.start)[i % 2 * SIDE..];
                let tiles = words.as_chunks_mut::<TILE>().0.iter_mut().enumerate();
                tiles.for_each(|(t, tile)| transpose(&from[t * SIDE * PANEL..], PANEL, tile, SIDE));
            }
        }
    }
    Strips::in_tiles(&packed.words()[..count * tiles * TILE], tiles * TILE)
}

/// Returns the rows without a copy, if a kernel can read them in place.
fn in_place<'a>(a: Operand<'a>, precision: Precision, rows: &Range<usize>, inner: &Range<usize>) -> Option<Strips<'a>> {
    let per = precision.per_word();
    let padded = inner.len().next_multiple_of(SIDE * per);
    let zeros = if inner.end == a.columns { a.zeros } else { 0 };
    if rows.is_empty() || inner.is_empty() || padded > inner.len() + zeros || !a.stride.is_multiple_of(per) {
        return None;
    }
    let words = a.values.words(precision, rows.start * a.stride + inner.start)?;
    let row = a.stride / per;
    let end = (rows.len().next_multiple_of(SIDE) - 1) * row + padded / per;
    (end <= words.len()).then_some(Strips { words, pair: 2 * SIDE * row, odd: SIDE * row, row, tile: SIDE, inner: 1 })
}

/// Packs one strip into tiles.
fn pack<T: Element, const BF16: bool>(a: Operand<'_>, values: &[T], rows: Range<usize>, inner: &Range<usize>, words: &mut [u32]) {
    with_simd(
        #[inline(always)]
        || {
            for (t, tile) in words.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                let width = SIDE * per_word(BF16);
                let inner = inner.start + t * width..(inner.start + (t + 1) * width).min(inner.end);
                for (i, out) in tile.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                    let row = rows.start + i;
                    let row = if row < rows.end { &values[row * a.stride + inner.start..][..inner.len()] } else { &[] };
                    along::<T, BF16>(row, out);
                }
            }
        },
    );
}
