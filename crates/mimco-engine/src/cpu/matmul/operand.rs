//! Matrices as they lie in memory.

use super::Precision;

/// Elements of a matrix in either precision.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper halves of f32.
    Bf16(&'a [u16]),
}

impl<'a> Values<'a> {
    /// Those from `start` on.
    pub fn from(self, start: usize) -> Self {
        match self {
            Values::F32(values) => Values::F32(&values[start..]),
            Values::Bf16(values) => Values::Bf16(&values[start..]),
        }
    }

    /// The words from element `start` on, where they are words of this precision and lie at multiples of four bytes.
    pub(super) fn words(self, precision: Precision, start: usize) -> Option<&'a [u32]> {
        match (self.from(start), precision) {
            (Values::F32(values), Precision::F32) => bytemuck::try_cast_slice(values).ok(),
            (Values::Bf16(values), Precision::Bf16) => bytemuck::try_cast_slice(&values[..values.len() & !1]).ok(),
            _ => None,
        }
    }
}

/// A matrix inside a slice: rows begin `stride` apart.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    /// Zeros behind each row.
    pub(super) zeros: usize,
}

impl<'a> Operand<'a> {
    /// Row-major and dense.
    pub fn new(values: Values<'a>, rows: usize, columns: usize) -> Self {
        Operand::strided(values, rows, columns, columns)
    }

    /// Rows of `columns` elements that begin `stride` apart.
    pub fn strided(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        let len = match values {
            Values::F32(v) => v.len(),
            Values::Bf16(v) => v.len(),
        };
        let end = rows.saturating_sub(1).saturating_mul(stride).saturating_add(columns);
        assert!(rows == 0 || columns == 0 || len >= end, "a matrix outside its slice");
        // Where no second row is reached, any stride fits the slice; one too large to count with would not fit the sums below.
        let stride = if rows <= 1 || columns == 0 { columns } else { stride };
        Operand { values, rows, columns, stride, zeros: 0 }
    }

    /// Rows of `columns` elements with zeros up to `stride` behind each, which spare a product a copy.
    pub fn with_zeros(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        Operand { zeros: stride - columns, ..Operand::strided(values, rows, columns, stride) }
    }
}
