//! Element types of tensors.

/// Element type of a tensor that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Double precision (f64).
    F64,
    /// Single precision (f32).
    F32,
    /// Half precision (f16).
    F16,
    /// Upper half of single precision (bf16).
    BF16,
}

impl Dtype {
    /// Returns PyTorch's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "float64",
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
        }
    }

    /// Returns the size of an element in bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
        }
    }
}
