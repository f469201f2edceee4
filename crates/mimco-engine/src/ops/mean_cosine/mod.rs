//! The mean cosine similarity of rows, a metric of alignment:
//! mean over i of aᵢ·bᵢ / max(|aᵢ| |bᵢ|, 1e-12).

mod cpu;

use crate::device::Device;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

impl Tensor {
    /// Computes the mean cosine similarity of the rows of two tensors [rows, width] in f32. The
    /// result is in f64 and has no gradient; it is 0 without rows.
    ///
    /// # Panics
    /// If the tensors differ in rows or width.
    pub fn mean_cosine(&self, other: &Tensor) -> Scalar {
        assert!(self.rows() == other.rows() && self.width() == other.width(), "rows of one size");
        match self.device() {
            Device::Cpu => cpu::mean_cosine(self, other),
        }
    }
}
