//! A contiguous array of f32 or bf16 with a shape.

use crate::cpu::buffer::Buffer;
use crate::element::Number;
use crate::cpu::matmul::{Operand, Precision, Values};
use std::sync::Arc;

/// Elements to write, in either precision.
pub(crate) enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

/// Up to four dimensions, the last one contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions");
        let mut shape = Shape { dims: [1; 4], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::from(&dims[..])
    }
}

/// A tensor; cloning it shares the elements.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    precision: Precision,
    data: Arc<Buffer>,
}

impl Tensor {
    /// A tensor of f32 whose elements are yet to be written.
    pub fn stale(shape: impl Into<Shape>) -> Tensor {
        Tensor::stale_in(Precision::F32, shape)
    }

    /// A tensor whose elements are yet to be written.
    pub fn stale_in(precision: Precision, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let words = match precision {
            Precision::F32 => shape.elements(),
            Precision::Bf16 => shape.elements().div_ceil(2),
        };
        Tensor { shape, precision, data: Arc::new(Buffer::stale(words)) }
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor { shape, precision: Precision::F32, data: Arc::new(Buffer::zeros(shape.elements())) }
    }

    /// A copy of `data`, which must have the shape's number of elements.
    pub fn from_slice(shape: impl Into<Shape>, data: &[f32]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), data.len(), "shape and data differ");
        Tensor { shape, precision: Precision::F32, data: Arc::new(Buffer::from_slice(data)) }
    }

    /// One number.
    pub fn scalar(value: f32) -> Tensor {
        Tensor::from_slice([1], &[value])
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Product of all sizes but the last: a tensor as a matrix.
    pub fn rows(&self) -> usize {
        self.shape.elements() / self.width().max(1)
    }

    /// The last size.
    pub fn width(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.shape.elements(), "reshape keeps the number of elements");
        Tensor { shape, ..self.clone() }
    }

    /// What its elements are.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The elements of a tensor of f32, row by row.
    pub fn data(&self) -> &[f32] {
        assert_eq!(self.precision, Precision::F32, "a tensor of bf16 has no f32");
        &self.data
    }

    /// The elements of a tensor of f32, to write; copied first where another tensor shares them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.precision, Precision::F32, "a tensor of bf16 has no f32");
        let buffer: &mut Buffer = Arc::make_mut(&mut self.data);
        buffer
    }

    /// The elements of a tensor of bf16.
    pub fn halves(&self) -> &[u16] {
        assert_eq!(self.precision, Precision::Bf16, "a tensor of f32 has no bf16");
        &self.data.halves()[..self.shape.elements()]
    }

    /// The elements of a tensor of bf16, to write; copied first where another tensor shares them.
    pub fn halves_mut(&mut self) -> &mut [u16] {
        assert_eq!(self.precision, Precision::Bf16, "a tensor of f32 has no bf16");
        let elements = self.shape.elements();
        let buffer: &mut Buffer = Arc::make_mut(&mut self.data);
        &mut buffer.halves_mut()[..elements]
    }

    /// The elements in either precision.
    pub fn values(&self) -> Values<'_> {
        match self.precision {
            Precision::F32 => Values::F32(self.data()),
            Precision::Bf16 => Values::Bf16(self.halves()),
        }
    }

    /// The elements in either precision, to write.
    pub(crate) fn values_mut(&mut self) -> ValuesMut<'_> {
        match self.precision {
            Precision::F32 => ValuesMut::F32(self.data_mut()),
            Precision::Bf16 => ValuesMut::Bf16(self.halves_mut()),
        }
    }

    /// The tensor as a matrix of its rows, a factor of a product.
    pub fn operand(&self) -> Operand<'_> {
        Operand::new(self.values(), self.rows(), self.width())
    }

    /// A copy in f32.
    pub fn to_f32(&self) -> Tensor {
        match self.precision {
            Precision::F32 => self.clone(),
            Precision::Bf16 => {
                let mut copy = Tensor::stale(self.shape);
                copy.data_mut().iter_mut().zip(self.halves()).for_each(|(f, h)| *f = h.single());
                copy
            }
        }
    }

    /// The value of a tensor of one element.
    pub fn item(&self) -> f32 {
        assert_eq!(self.shape.elements(), 1, "item() is for tensors of one element");
        self.data()[0]
    }
}
