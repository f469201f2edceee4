//! Description of a tensor in a file: a shape and strides over a storage.

use super::dtype::Dtype;
use super::input::Input;
use super::read_error::ReadError;

/// Tensor in a file, of which only the description has been read.
#[derive(Clone, Debug)]
pub struct Array {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Shape, outermost size first.
    pub shape: Vec<usize>,
    /// Distance in elements between consecutive indices, for each size; 0 for a size of 1.
    strides: Vec<usize>,
    storage: Storage,
    /// Number of elements in the storage before the first.
    offset: usize,
}

/// Contiguous bytes that contain the elements of tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// Offset of the first byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Part of its storage that a tensor needs.
struct Extent {
    /// Number of elements of the tensor.
    elements: usize,
    /// Number of elements of the storage from the tensor's first to its last.
    spanned: usize,
}

impl Array {
    /// Describes a tensor and checks that all its elements are inside its storage. The error is the
    /// rest of a sentence that begins with the tensor's name.
    pub(super) fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        mut strides: Vec<usize>,
        storage: Storage,
        offset: usize,
    ) -> Result<Array, &'static str> {
        strides.iter_mut().zip(&shape).filter(|(_, size)| **size <= 1).for_each(|(stride, _)| *stride = 0);
        let array = Array { dtype, shape, strides, storage, offset };
        array.extent()?;
        Ok(array)
    }

    /// Describes a tensor that fills its storage row by row.
    pub(super) fn contiguous(dtype: Dtype, shape: Vec<usize>, storage: Storage) -> Result<Array, &'static str> {
        let mut strides = vec![0; shape.len()];
        let mut next = 1usize;
        for (stride, size) in strides.iter_mut().zip(&shape).rev() {
            *stride = next;
            next = next.checked_mul((*size).max(1)).ok_or(TOO_MANY)?;
        }
        Array::new(dtype, shape, strides, storage, 0)
    }

    /// Reads all elements, row by row.
    pub(super) fn read(&self, input: &mut Input) -> Result<Vec<f32>, ReadError> {
        // Checked again, because the shape is a public field.
        let extent = self.extent().map_err(ReadError::damaged)?;
        if extent.elements == 0 {
            return Ok(Vec::new());
        }
        let start = self.storage.start.checked_add((self.offset * self.dtype.size()) as u64).ok_or(ReadError::Truncated)?;
        let spanned = input.elements(self.dtype, start, extent.spanned)?;
        Ok(if self.is_contiguous() { spanned } else { self.gather(&spanned, extent.elements) })
    }

    /// Computes the part of the storage that the tensor needs and checks that the storage has it.
    fn extent(&self) -> Result<Extent, &'static str> {
        if self.shape.len() != self.strides.len() {
            return Err("has another number of strides than of sizes");
        }
        // The product of the other sizes must not overflow even next to a size of 0.
        let product = self.shape.iter().filter(|size| **size > 0).try_fold(1usize, |product, size| product.checked_mul(*size));
        let elements = if self.shape.contains(&0) { product.map(|_| 0) } else { product }.ok_or(TOO_MANY)?;
        if elements == 0 {
            return Ok(Extent { elements, spanned: 0 });
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(0usize, |last, (size, stride)| {
            last.checked_add((size - 1).checked_mul(*stride)?) // no size is 0 here
        });
        let last = last.ok_or(BEYOND)?;
        let stored = usize::try_from(self.storage.length).unwrap_or(usize::MAX) / self.dtype.size();
        if last.checked_add(self.offset).is_none_or(|last| last >= stored) {
            return Err(BEYOND);
        }
        if elements > stored {
            return Err("has more elements than it stores; save it as tensor.contiguous()");
        }
        Ok(Extent { elements, spanned: last + 1 })
    }

    fn is_contiguous(&self) -> bool {
        let mut next = 1;
        self.shape.iter().zip(&self.strides).rev().filter(|(size, _)| **size != 1).all(|(size, stride)| {
            let fits = *stride == next;
            next *= size;
            fits
        })
    }

    /// Collects `elements` elements from the spanned part of the storage, row by row.
    fn gather(&self, spanned: &[f32], elements: usize) -> Vec<f32> {
        let mut gathered = Vec::with_capacity(elements);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0; // index into `spanned`
        for _ in 0..elements {
            gathered.extend(spanned.get(at));
            for ((i, size), stride) in index.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
                *i += 1;
                at += stride;
                if *i < *size {
                    break;
                }
                at -= *i * stride;
                *i = 0;
            }
        }
        gathered
    }
}

const TOO_MANY: &str = "has more elements than can be counted";
const BEYOND: &str = "reaches beyond its storage";
