//! Rows of tensors in either precision: as factors of products, and as the destination of results
//! that are computed in f32.

use crate::cpu::matmul::{Operand, PANEL, Tile};
use crate::cpu::threads::DisjointSlices;
use crate::cpu::vector::prefetch_next;
use crate::element::{Element, Precision, ValuesMut};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;

/// A tensor as a matrix of its rows.
pub(crate) fn operand(tensor: &Tensor) -> Operand<'_> {
    Operand::new(tensor.values(), tensor.rows(), tensor.width())
}

/// Some rows of a tensor as a matrix.
pub(crate) fn operand_of_rows(tensor: &Tensor, rows: Range<usize>) -> Operand<'_> {
    let width = tensor.width();
    Operand::new(tensor.values().from(rows.start * width), rows.len(), width)
}

/// The first rows of a tensor as a matrix.
pub(crate) fn first_rows(tensor: &Tensor, rows: usize) -> Operand<'_> {
    Operand::new(tensor.values(), rows, tensor.width())
}

/// Allocates rows for the left factor of a product, which reads whole strips of 16 rows.
pub(crate) fn uninit_rows(precision: Precision, rows: usize, width: usize) -> Tensor {
    Tensor::uninit_in(precision, [rows.next_multiple_of(16), width])
}

/// Writes rows of a tensor from several threads. Values are computed in f32 and stored as f32 or
/// bf16.
pub(crate) struct RowWriter<'a> {
    elements: Elements<'a>,
    width: usize,
}

enum Elements<'a> {
    F32(DisjointSlices<'a, f32>),
    Bf16(DisjointSlices<'a, bf16>),
}

impl<'a> RowWriter<'a> {
    /// Borrows the tensor for the lifetime of the writer.
    pub fn new(tensor: &'a mut Tensor) -> RowWriter<'a> {
        let width = tensor.width();
        let elements = match tensor.values_mut() {
            ValuesMut::F32(values) => Elements::F32(DisjointSlices::new(values)),
            ValuesMut::Bf16(values) => Elements::Bf16(DisjointSlices::new(values)),
        };
        RowWriter { elements, width }
    }

    /// Writes a tile of a product whose first row is row `first` of the tensor.
    ///
    /// # Safety
    /// As for [`RowWriter::write`].
    #[inline(always)]
    pub unsafe fn write_tile(&self, first: usize, tile: &mut Tile<'_>) {
        tile.each_row(
            #[inline(always)]
            // SAFETY: ensured by the caller.
            |row, column, values| unsafe { self.write(first + row, column, values) },
        );
    }

    /// Writes `values` to a row from `column` on.
    ///
    /// # Safety
    /// No other thread may access the same elements at the same time.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        let start = row * self.width + column;
        // SAFETY: ensured by the caller.
        unsafe {
            match (&self.elements, <&[f32; PANEL]>::try_from(values)) {
                // The width of a panel is a constant, so that the copy needs no call.
                (Elements::F32(parts), Ok(values)) => {
                    let out = parts.part(start, PANEL);
                    f32::convert_from(out, values);
                    prefetch_next(out);
                }
                (Elements::Bf16(parts), Ok(values)) => {
                    let out = parts.part(start, PANEL);
                    bf16::convert_from(out, values);
                    prefetch_next(out);
                }
                (Elements::F32(parts), Err(_)) => f32::convert_from(parts.part(start, values.len()), values),
                (Elements::Bf16(parts), Err(_)) => bf16::convert_from(parts.part(start, values.len()), values),
            }
        }
    }
}
