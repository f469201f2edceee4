//! A contiguous array of `f32` with a shape.

use crate::cpu::buffer::Buffer;
use std::sync::Arc;

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
    data: Arc<Buffer>,
}

impl Tensor {
    /// A tensor whose elements are yet to be written.
    pub fn stale(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor { shape, data: Arc::new(Buffer::stale(shape.elements())) }
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor { shape, data: Arc::new(Buffer::zeros(shape.elements())) }
    }

    /// A copy of `data`, which must have the shape's number of elements.
    pub fn from_slice(shape: impl Into<Shape>, data: &[f32]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), data.len(), "shape and data differ");
        Tensor { shape, data: Arc::new(Buffer::from_slice(data)) }
    }

    /// One number.
    pub fn scalar(value: f32) -> Tensor {
        Tensor::from_slice([1], &[value])
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Product of all sizes but the last: a tensor as a matrix.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width().max(1)
    }

    /// The last size.
    pub fn width(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.data.len(), "reshape keeps the number of elements");
        Tensor { shape, data: self.data.clone() }
    }

    /// The elements, row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The elements to write; copied first where another tensor shares them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let buffer: &mut Buffer = Arc::make_mut(&mut self.data);
        buffer
    }

    /// The value of a tensor of one element.
    pub fn item(&self) -> f32 {
        assert_eq!(self.data.len(), 1, "item() is for tensors of one element");
        self.data[0]
    }
}
