//! Tiles of a product, as its caller receives them.

use super::layout::PANEL;
use crate::cpu::simd::with_simd;

/// A part of a product: rows of `columns` elements that begin [`PANEL`] apart.
pub(crate) struct Tile<'a> {
    /// First row in the product.
    pub row: usize,
    /// First column in the product.
    pub column: usize,
    /// Number of columns inside the product, at most [`PANEL`].
    pub columns: usize,
    /// Rows of [`PANEL`] elements.
    pub(super) values: &'a mut [f32],
}

impl Tile<'_> {
    /// Iterates over the rows, each of `columns` elements.
    #[inline(always)]
    pub fn rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let columns = self.columns;
        self.values.chunks_exact_mut(PANEL).map(move |row| &mut row[..columns])
    }

    /// Calls `finish(row, column, values)` for each row, compiled for the widest vectors. The width
    /// of a whole panel is a constant, so that a row remains in registers.
    #[inline(always)]
    pub fn each_row(&mut self, finish: impl Fn(usize, usize, &mut [f32])) {
        let (first, column) = (self.row, self.column);
        with_simd(
            #[inline(always)]
            || {
                if self.columns == PANEL {
                    for (i, row) in self.values.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                        finish(first + i, column, row);
                    }
                } else {
                    for (i, row) in self.rows().enumerate() {
                        finish(first + i, column, row);
                    }
                }
            },
        );
    }

    /// Iterates over pairs of rows. The second row of the last pair is empty if their number is
    /// odd.
    #[inline(always)]
    pub fn pairs(&mut self) -> impl Iterator<Item = [&mut [f32]; 2]> {
        let columns = self.columns;
        self.values.chunks_mut(2 * PANEL).map(move |pair| {
            let (upper, lower) = pair.split_at_mut(PANEL);
            let end = columns.min(lower.len());
            [&mut upper[..columns], &mut lower[..end]]
        })
    }
}
