//! Row-major matrices in memory.

use crate::element::Values;

/// A row-major matrix inside a slice; rows begin `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    /// Zeros after each row.
    pub(super) zeros: usize,
}

impl<'a> Operand<'a> {
    /// Wraps a dense matrix.
    pub fn new(values: Values<'a>, rows: usize, columns: usize) -> Self {
        Operand::strided(values, rows, columns, columns)
    }

    /// Wraps rows of `columns` elements that begin `stride` apart. Panics if the slice is shorter.
    pub fn strided(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        let end = rows.saturating_sub(1).saturating_mul(stride).saturating_add(columns);
        assert!(rows == 0 || columns == 0 || values.len() >= end, "a matrix outside its slice");
        // Without a second row any stride fits the slice. One that overflows is replaced, so that
        // kernels can compute with it.
        let stride = if rows <= 1 || columns == 0 { columns } else { stride };
        Operand { values, rows, columns, stride, zeros: 0 }
    }

    /// Wraps rows of `columns` elements, each followed by zeros up to `stride`. The zeros let a
    /// product read the rows without a copy.
    pub fn with_zeros(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        Operand { zeros: stride - columns, ..Operand::strided(values, rows, columns, stride) }
    }
}
