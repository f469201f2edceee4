//! Benchmark of matrix products with the shapes of transformer layers.

use super::{Rate, rate};
use mimco_engine::Tensor;
use mimco_engine::cpu::number::Number;
use mimco_engine::cpu::product::{Panels, Precision, product};
use mimco_engine::cpu::threads::Parts;
use serde::Serialize;

/// Rates of a matrix product in GFLOP/s.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// Rows, inner dimension and columns.
    pub shape: [usize; 3],
    /// Rate of plain matrices. Packing of the right factor is included, as in `torch.mm`.
    pub gflops: Rate,
    /// Rate with a right factor packed in advance, like the weights in a training step.
    pub gflops_packed: Rate,
}

/// Times the product [rows, inner] · [inner, columns] with factors and result in `precision`.
pub fn time([rows, inner, columns]: [usize; 3], precision: Precision, repeats: usize) -> Product {
    let (a, b) = (numbers(rows, inner, precision), numbers(inner, columns, precision));
    let mut c = Tensor::stale_in(precision, [rows, columns]);
    let gflop = 2.0 * (rows * inner * columns) as f64 / 1e9;
    let packed = Panels::new(b.operand(), precision);
    let gflops_packed = rate(gflop, repeats, || into(&mut c, &a, &packed));
    let gflops = rate(gflop, repeats, || into(&mut c, &a, &Panels::new(b.operand(), precision)));
    Product { shape: [rows, inner, columns], gflops, gflops_packed }
}

/// Returns the floating-point operations per second of a large matrix product: the reference for
/// the utilization of a training step.
pub fn ceiling(precision: Precision) -> f64 {
    time([1536, 1024, 1024], precision, 7).gflops_packed.best * 1e9
}

/// Returns a matrix of arbitrary values in -1..1.
fn numbers(rows: usize, columns: usize, precision: Precision) -> Tensor {
    let value = |i: usize| (i * 37 % 1009) as f32 / 504.5 - 1.0;
    let mut tensor = Tensor::stale_in(precision, [rows, columns]);
    match precision {
        Precision::F32 => tensor.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = value(i)),
        Precision::Bf16 => tensor.halves_mut().iter_mut().enumerate().for_each(|(i, v)| *v = value(i).half()),
    }
    tensor
}

/// Computes the product of `a` and the packed `b` into `c`.
fn into(c: &mut Tensor, a: &Tensor, b: &Panels) {
    fn store<T: Number>(c: &mut [T], a: &Tensor, b: &Panels) {
        let (c, columns) = (Parts::new(c), b.columns());
        product(a.operand(), b, |mut tile| {
            tile.each_row(
                #[inline(always)]
                // SAFETY: tiles do not overlap.
                |row, column, values| T::store(unsafe { c.part(row * columns + column, values.len()) }, values),
            );
        });
    }
    match c.precision() {
        Precision::F32 => store(c.data_mut(), a, b),
        Precision::Bf16 => store(c.halves_mut(), a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timed_product_is_the_product() {
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.1)] {
            let (a, b) = (numbers(33, 40, precision), numbers(40, 65, precision));
            let mut c = Tensor::stale_in(precision, [33, 65]);
            into(&mut c, &a, &Panels::new(b.operand(), precision));
            let (a, b, c) = (a.to_f32(), b.to_f32(), c.to_f32());
            for (i, c) in c.data().iter().enumerate() {
                let plain: f32 = (0..40).map(|k| a.data()[i / 65 * 40 + k] * b.data()[k * 65 + i % 65]).sum();
                assert!((c - plain).abs() < tolerance, "{precision:?} at {i}: {c} for {plain}");
            }
        }
        assert_eq!(time([4, 5, 6], Precision::F32, 1).shape, [4, 5, 6]);
    }
}
