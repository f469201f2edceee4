//! Where operators put what they worked out in f32: the rows of a tensor in either precision, several threads at a time.

use crate::cpu::product::{Number, PANEL};
use crate::cpu::threads::Parts;
use crate::tensor::{Tensor, ValuesMut};

/// The rows of a tensor.
pub(super) struct Rows<'a> {
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

    /// Puts `values` into a row from `column` on.
    ///
    /// # Safety
    /// Nobody else may write the same elements, or read them, at the same time.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        let start = row * self.width + column;
        // SAFETY: the caller's promise.
        unsafe {
            // The width of a tile is known when this is compiled, and takes no call.
            if let (Either::F32(parts), Ok(values)) = (&self.values, <&[f32; PANEL]>::try_from(values)) {
                parts.part(start, PANEL).copy_from_slice(values);
                return;
            }
            match &self.values {
                Either::F32(parts) => parts.part(start, values.len()).copy_from_slice(values),
                Either::Bf16(parts) => parts.part(start, values.len()).iter_mut().zip(values).for_each(|(o, v)| *o = v.half()),
            }
        }
    }
}
