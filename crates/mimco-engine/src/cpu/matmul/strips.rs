//! The left factor as the kernels read it: sixteen rows a strip.

use super::kernel::Kernel;
use super::words::{TILE, along, transpose};
use super::{Operand, PANEL, Panels, Precision, SIDE, Values};
use crate::cpu::buffer::Buffer;
use crate::element::Number;
use crate::cpu::vector::wide;
use std::ops::Range;

/// The left factor of a product.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Its rows.
    Rows(Operand<'a>),
    /// Its transpose in panels, whose columns are its rows.
    Columns(&'a Panels),
}

impl<'a> From<Operand<'a>> for Left<'a> {
    fn from(rows: Operand<'a>) -> Left<'a> {
        Left::Rows(rows)
    }
}

impl Left<'_> {
    /// Rows of the product.
    pub fn rows(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.rows,
            Left::Columns(panels) => panels.columns(),
        }
    }

    /// What is summed over.
    pub fn inner(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.columns,
            Left::Columns(panels) => panels.inner(),
        }
    }
}

/// Word (row, inner) of strip i lies at
/// (i / 2) · `pair` + (i % 2) · `odd` + row · `row` + (inner / 16) · `tile` + (inner % 16) · `inner`.
pub(super) struct Strips<'a> {
    words: &'a [u32],
    pair: usize,
    odd: usize,
    pub row: usize,
    pub tile: usize,
    pub inner: usize,
}

impl<'a> Strips<'a> {
    /// The words of strip i on, of which a kernel may read its sixteen rows up to inner word `inner` - 1.
    pub fn from(&self, i: usize, inner: usize) -> &[u32] {
        let words = &self.words[i / 2 * self.pair + i % 2 * self.odd..];
        let last = (SIDE - 1) * self.row + (inner / SIDE - 1) * self.tile + (SIDE - 1) * self.inner;
        assert!(inner.is_multiple_of(SIDE) && last < words.len(), "a strip outside its words");
        words
    }

    /// Tiles of 16 x 16 words, `strip` words a strip.
    fn in_tiles(words: &'a [u32], strip: usize) -> Strips<'a> {
        Strips { words, pair: 2 * strip, odd: strip, row: SIDE, tile: TILE, inner: 1 }
    }
}

/// Rows (from a multiple of 32 on) and inner places of a in strips: as they lie where the kernel can read them so (then what follows the last row
/// takes the place of the missing ones, whose sums nobody reads), else packed into tiles, with zeros beyond.
pub(super) fn strips<'a>(
    kernel: Kernel,
    precision: Precision,
    a: Left<'a>,
    rows: Range<usize>,
    inner: Range<usize>,
    packed: &'a mut Buffer,
) -> Strips<'a> {
    let tiles = inner.len().div_ceil(SIDE * precision.per_word());
    let count = rows.len().div_ceil(SIDE);
    let mut room = |count: usize| {
        if packed.len() < count * tiles * TILE {
            *packed = Buffer::stale(count * tiles * TILE);
        }
    };
    match a {
        Left::Rows(a) => {
            if let Some(strips) = as_they_lie(a, precision, &rows, &inner) {
                return strips;
            }
            room(count);
            for (i, words) in packed.words_mut()[..count * tiles * TILE].chunks_exact_mut((tiles * TILE).max(1)).enumerate() {
                let rows = rows.start + i * SIDE..(rows.start + (i + 1) * SIDE).min(rows.end);
                match (a.values, precision) {
                    (Values::F32(values), Precision::F32) => pack::<f32, false>(a, values, rows, &inner, words),
                    (Values::F32(values), Precision::Bf16) => pack::<f32, true>(a, values, rows, &inner, words),
                    (Values::Bf16(values), Precision::F32) => pack::<u16, false>(a, values, rows, &inner, words),
                    (Values::Bf16(values), Precision::Bf16) => pack::<u16, true>(a, values, rows, &inner, words),
                }
            }
        }
        Left::Columns(a) => {
            assert!(rows.start.is_multiple_of(PANEL) && a.precision() == precision, "whole panels of the right factor's precision");
            let panel = a.panel_words(a.inner());
            if !kernel.wants_rows(precision) {
                let words = if tiles == 0 { &[] } else { a.from(rows.start / PANEL, inner.start) };
                return Strips { words, pair: panel, odd: SIDE, row: 1, tile: SIDE * PANEL, inner: PANEL };
            }
            room(count);
            for (i, words) in packed.words_mut()[..count * tiles * TILE].chunks_exact_mut((tiles * TILE).max(1)).enumerate() {
                let from = &a.from(rows.start / PANEL + i / 2, inner.start)[i % 2 * SIDE..];
                let tiles = words.as_chunks_mut::<TILE>().0.iter_mut().enumerate();
                tiles.for_each(|(t, tile)| transpose(&from[t * SIDE * PANEL..], PANEL, tile, SIDE));
            }
        }
    }
    Strips::in_tiles(&packed.words()[..count * tiles * TILE], tiles * TILE)
}

fn as_they_lie<'a>(a: Operand<'a>, precision: Precision, rows: &Range<usize>, inner: &Range<usize>) -> Option<Strips<'a>> {
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

/// One strip.
fn pack<T: Number, const BF16: bool>(a: Operand<'_>, values: &[T], rows: Range<usize>, inner: &Range<usize>, words: &mut [u32]) {
    wide(
        #[inline(always)]
        || {
            for (t, tile) in words.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                let width = SIDE * super::words::per_word(BF16);
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
