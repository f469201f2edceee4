//! Contiguous arrays of f32 or bf16 with a shape.

use crate::cpu::buffer::Buffer;
use crate::device::{Device, Memory};
use crate::element::{Element, Precision, Values, ValuesMut};
use half::bf16;
use std::borrow::Cow;
use std::sync::Arc;

/// Sizes of a tensor: up to four dimensions, the last one contiguous.
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
    /// Makes a shape of the sizes, outermost first.
    ///
    /// # Panics
    /// If there are more than four.
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

/// A tensor on a device. Clones share the elements.
///
/// Elements are read and written by operators, on the device. The host reads them by an explicit
/// copy, [`Tensor::to_host`].
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    precision: Precision,
    memory: Arc<Memory>,
}

impl Tensor {
    /// Allocates a tensor of f32 in main memory without setting its elements.
    pub(crate) fn uninit(shape: impl Into<Shape>) -> Tensor {
        Tensor::uninit_in(Precision::F32, shape)
    }

    /// Allocates a tensor of either precision in main memory without setting its elements.
    pub(crate) fn uninit_in(precision: Precision, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let words = shape.elements().div_ceil(precision.per_word());
        Tensor::from_buffer(shape, precision, Buffer::uninit(words))
    }

    /// Wraps a buffer of main memory.
    fn from_buffer(shape: Shape, precision: Precision, buffer: Buffer) -> Tensor {
        Tensor { shape, precision, memory: Arc::new(Memory::Cpu(buffer)) }
    }

    /// Returns a tensor of zeros in main memory, in f32.
    pub fn zeros(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor::from_buffer(shape, Precision::F32, Buffer::zeros(shape.elements()))
    }

    /// Copies `data` to a tensor of f32 in main memory.
    ///
    /// # Panics
    /// If `data` does not have the shape's number of elements.
    pub fn from_slice(shape: impl Into<Shape>, data: &[f32]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), data.len(), "shape and data differ");
        Tensor::from_buffer(shape, Precision::F32, Buffer::from_slice(data))
    }

    /// Returns a tensor of shape `[1]` that holds `value`.
    pub fn scalar(value: f32) -> Tensor {
        Tensor::from_slice([1], &[value])
    }

    /// Returns the device that holds the elements.
    pub fn device(&self) -> Device {
        self.memory.device()
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Number of rows of the tensor as a matrix: the product of all sizes but the last.
    pub fn rows(&self) -> usize {
        self.shape.elements() / self.width().max(1)
    }

    /// The last size.
    pub fn width(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Returns the same elements with another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.shape.elements(), "reshape keeps the number of elements");
        Tensor { shape, ..self.clone() }
    }

    /// Precision of the stored elements.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Copies the elements to the host as f32, row by row. On the CPU a tensor of f32 is borrowed;
    /// bf16 is converted.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        match (&*self.memory, self.precision) {
            (Memory::Cpu(_), Precision::F32) => Cow::Borrowed(self.data()),
            (Memory::Cpu(_), Precision::Bf16) => self.bf16_data().iter().map(|v| Element::to_f32(*v)).collect(),
        }
    }

    /// Copies the value of a tensor of one element to the host.
    ///
    /// # Panics
    /// If the tensor does not have exactly one element.
    pub fn item(&self) -> f32 {
        assert_eq!(self.shape.elements(), 1, "item() needs a tensor of one element");
        self.to_host()[0]
    }

    /// Elements of a tensor of f32 in main memory, row by row.
    pub(crate) fn data(&self) -> &[f32] {
        assert_eq!(self.precision, Precision::F32, "the tensor holds bf16, not f32");
        self.memory.cpu()
    }

    /// Elements of a tensor of f32 in main memory, to write. Copies them first if another tensor
    /// shares them.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.precision, Precision::F32, "the tensor holds bf16, not f32");
        Arc::make_mut(&mut self.memory).cpu_mut()
    }

    /// Elements of a tensor of bf16 in main memory, row by row.
    pub(crate) fn bf16_data(&self) -> &[bf16] {
        assert_eq!(self.precision, Precision::Bf16, "the tensor holds f32, not bf16");
        &self.memory.cpu().bf16()[..self.shape.elements()]
    }

    /// Elements of a tensor of bf16 in main memory, to write. Copies them first if another tensor
    /// shares them.
    pub(crate) fn bf16_data_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.precision, Precision::Bf16, "the tensor holds f32, not bf16");
        let elements = self.shape.elements();
        &mut Arc::make_mut(&mut self.memory).cpu_mut().bf16_mut()[..elements]
    }

    /// Elements in main memory, in either precision.
    pub(crate) fn values(&self) -> Values<'_> {
        match self.precision {
            Precision::F32 => Values::F32(self.data()),
            Precision::Bf16 => Values::Bf16(self.bf16_data()),
        }
    }

    /// Elements in main memory, in either precision, to write.
    pub(crate) fn values_mut(&mut self) -> ValuesMut<'_> {
        match self.precision {
            Precision::F32 => ValuesMut::F32(self.data_mut()),
            Precision::Bf16 => ValuesMut::Bf16(self.bf16_data_mut()),
        }
    }
}
