//! Where operators put what they worked out in f32: the rows of a tensor in either precision, several threads at a time.

use crate::element::Number;
use crate::cpu::matmul::{PANEL, Tile};
use crate::cpu::threads::Parts;
use crate::cpu::vector::{add, prefetch_behind};
use crate::tensor::{Tensor, ValuesMut};

/// The rows of a tensor.
pub(in crate::ops) struct Rows<'a> {
    values: Either<'a>,
    width: usize,
}

enum Either<'a> {
    F32(Parts<'a, f32>),
    Bf16(Parts<'a, u16>),
}

impl<'a> Rows<'a> {
    pub fn of(tensor: &'a mut Tensor) -> Rows<'a> {
        let width = tensor.width();
        let values = match tensor.values_mut() {
            ValuesMut::F32(values) => Either::F32(Parts::new(values)),
            ValuesMut::Bf16(values) => Either::Bf16(Parts::new(values)),
        };
        Rows { values, width }
    }

    /// Puts a tile of a product whose first row is row `first` here.
    ///
    /// # Safety
    /// As [`Rows::put`].
    #[inline(always)]
    pub unsafe fn put_tile(&self, first: usize, tile: &mut Tile<'_>) {
        tile.each_row(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |row, column, values| unsafe { self.put(first + row, column, values) },
        );
    }

    /// Puts `values` into a row from `column` on.
    ///
    /// # Safety
    /// Nobody else may write the same elements, or read them, at the same time.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        let start = row * self.width + column;
        // SAFETY: the caller's promise.
        unsafe {
            match (&self.values, <&[f32; PANEL]>::try_from(values)) {
                // The width of a tile is known when this is compiled, and takes no call.
                (Either::F32(parts), Ok(values)) => {
                    let out = parts.part(start, PANEL);
                    f32::store(out, values);
                    prefetch_behind(out);
                }
                (Either::Bf16(parts), Ok(values)) => {
                    let out = parts.part(start, PANEL);
                    u16::store(out, values);
                    prefetch_behind(out);
                }
                (Either::F32(parts), Err(_)) => f32::store(parts.part(start, values.len()), values),
                (Either::Bf16(parts), Err(_)) => u16::store(parts.part(start, values.len()), values),
            }
        }
    }
}

/// Sums of the columns of [rows, width], of 32 rows or more at a time, so that several threads make them and their order is fixed.
pub(in crate::ops) struct ColumnSums {
    /// [rows / 32, width]
    partial: Tensor,
}

impl ColumnSums {
    const ROWS: usize = 32;

    pub fn new(rows: usize, width: usize) -> ColumnSums {
        ColumnSums { partial: Tensor::zeros([rows.div_ceil(Self::ROWS), width]) }
    }

    pub fn parts(&mut self) -> ColumnParts<'_> {
        let width = self.partial.width();
        ColumnParts { partial: Parts::new(self.partial.data_mut()), width }
    }

    /// sums += the sums of all rows.
    pub fn add_to(&self, sums: &mut [f32]) {
        self.partial.data().chunks_exact(sums.len().max(1)).for_each(|partial| add(sums, partial));
    }
}

/// Sums that are being made.
pub(in crate::ops) struct ColumnParts<'a> {
    partial: Parts<'a, f32>,
    width: usize,
}

impl ColumnParts<'_> {
    /// Where the rows from `row`, a multiple of 32, on are added up, in some columns.
    ///
    /// # Safety
    /// Nobody else may hold the same columns of the same rows.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller keeps parts apart")]
    pub unsafe fn of_rows(&self, row: usize, column: usize, columns: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.partial.part(row / ColumnSums::ROWS * self.width + column, columns) }
    }
}
