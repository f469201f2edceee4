//! Flags: tensors of one element, 1 or 0, that let or stop an update.

use crate::tensor::Tensor;

/// Whether a flag is not 0.
pub(crate) fn is_set(flag: &Tensor) -> bool {
    assert_eq!(flag.elements(), 1, "a flag has one element");
    flag.data()[0] != 0.0
}
