//! The mean cosine similarity on the CPU.

use crate::scalar::Scalar;
use crate::tensor::Tensor;

pub(super) fn mean_cosine(a: &Tensor, b: &Tensor) -> Scalar {
    let width = a.width();
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x * y) as f64).sum::<f64>();
    let pairs = a.data().chunks_exact(width).zip(b.data().chunks_exact(width));
    let sum: f64 = pairs.map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-12)).sum();
    Scalar::cpu(sum / a.rows().max(1) as f64)
}
