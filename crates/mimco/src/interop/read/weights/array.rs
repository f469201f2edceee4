//! A tensor as its file describes it: a shape and strides over a storage.

use super::dtype::Dtype;
use super::fault::Fault;
use super::input::Input;

/// A tensor in a file: what it is and where its elements lie.
#[derive(Clone, Debug)]
pub struct Array {
    /// What the file stores.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each size; 0 where there is but one index.
    strides: Vec<usize>,
    storage: Storage,
    /// Elements of the storage before the first.
    offset: usize,
}

/// A run of bytes that tensors lie in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// Its first byte in the file.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

/// How much of its storage a tensor needs.
struct Extent {
    elements: usize,
    /// Elements of the storage from the tensor's first to its last.
    spanned: usize,
}

impl Array {
    /// A tensor whose every element lies inside its storage; otherwise what is wrong, as the rest of a sentence about the tensor.
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

    /// A tensor that fills its storage row by row.
    pub(super) fn whole(dtype: Dtype, shape: Vec<usize>, storage: Storage) -> Result<Array, &'static str> {
        let mut strides = vec![0; shape.len()];
        let mut next = 1usize;
        for (stride, size) in strides.iter_mut().zip(&shape).rev() {
            *stride = next;
            next = next.checked_mul((*size).max(1)).ok_or(TOO_MANY)?;
        }
        Array::new(dtype, shape, strides, storage, 0)
    }

    /// All elements, row by row.
    pub(super) fn read(&self, input: &mut Input) -> Result<Vec<f32>, Fault> {
        // Once more, since the shape is anyone's to change.
        let extent = self.extent().map_err(Fault::damaged)?;
        if extent.elements == 0 {
            return Ok(Vec::new());
        }
        let start = self.storage.start.checked_add((self.offset * self.dtype.size()) as u64).ok_or(Fault::Cut)?;
        let spanned = input.numbers(self.dtype, start, extent.spanned)?;
        Ok(if self.is_row_by_row() { spanned } else { self.gather(&spanned, extent.elements) })
    }

    fn extent(&self) -> Result<Extent, &'static str> {
        if self.shape.len() != self.strides.len() {
            return Err("has not as many strides as sizes");
        }
        // Sizes beside a 0 must not overflow either: whoever multiplies them would.
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

    fn is_row_by_row(&self) -> bool {
        let mut next = 1;
        self.shape.iter().zip(&self.strides).rev().filter(|(size, _)| **size != 1).all(|(size, stride)| {
            let fits = *stride == next;
            next *= size;
            fits
        })
    }

    fn gather(&self, spanned: &[f32], elements: usize) -> Vec<f32> {
        let mut gathered = Vec::with_capacity(elements);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
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
