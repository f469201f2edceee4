//! Sums of the columns of a matrix, computed by several threads in a fixed order.

use crate::cpu::threads::DisjointSlices;
use crate::cpu::vector::add;
use crate::tensor::Tensor;

/// Sums of the columns of [rows, width]. Partial sums are over blocks of rows that begin at
/// multiples of 32, so that several threads compute them in a fixed order.
pub(in crate::ops) struct ColumnSums {
    /// [rows / 32, width]
    partial: Tensor,
}

impl ColumnSums {
    const ROWS: usize = 32;

    /// Allocates sums of 0.
    pub fn new(rows: usize, width: usize) -> ColumnSums {
        ColumnSums { partial: Tensor::zeros([rows.div_ceil(Self::ROWS), width]) }
    }

    /// Returns access to the partial sums, for several threads.
    pub fn parts(&mut self) -> ColumnParts<'_> {
        let width = self.partial.width();
        ColumnParts { partial: DisjointSlices::new(self.partial.data_mut()), width }
    }

    /// Adds the sums of all rows to `sums`.
    pub fn add_to(&self, sums: &mut [f32]) {
        self.partial.data().chunks_exact(sums.len().max(1)).for_each(|partial| add(sums, partial));
    }
}

/// Partial sums while several threads compute them.
pub(in crate::ops) struct ColumnParts<'a> {
    partial: DisjointSlices<'a, f32>,
    width: usize,
}

impl ColumnParts<'_> {
    /// Returns the partial sums of some columns for the rows from `row` on, a multiple of 32.
    ///
    /// # Safety
    /// No other thread may hold the same columns of the same rows.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller ensures that parts do not overlap")]
    pub unsafe fn of_rows(&self, row: usize, column: usize, columns: usize) -> &mut [f32] {
        // SAFETY: ensured by the caller.
        unsafe { self.partial.part(row / ColumnSums::ROWS * self.width + column, columns) }
    }
}
