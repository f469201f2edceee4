//! A plain product of two matrices, for benchmarks and for the peak rate of a machine.

use crate::cpu::matmul::{Panels, product};
use crate::cpu::rows::{RowWriter, operand};
use crate::element::{Element, Precision, ValuesMut};
use crate::tensor::Tensor;
use std::time::Instant;

/// A product c = a·b of matrices of fixed values, to be timed. Factors and result are in one
/// precision.
pub struct PlainProduct {
    a: Tensor,
    b: Tensor,
    c: Tensor,
    packed: Panels,
}

impl PlainProduct {
    /// Allocates and packs the factors of a product of `[rows, inner, columns]` in main memory.
    pub fn new([rows, inner, columns]: [usize; 3], precision: Precision) -> PlainProduct {
        let (a, b) = (numbers(rows, inner, precision), numbers(inner, columns, precision));
        let packed = Panels::new(operand(&b), precision);
        PlainProduct { a, c: Tensor::uninit_in(precision, [rows, columns]), packed, b }
    }

    /// Number of floating-point operations of one run.
    pub fn flop(&self) -> f64 {
        2.0 * (self.a.rows() * self.a.width() * self.b.width()) as f64
    }

    /// Computes c from the plain factors, with the packing of b, as `torch.mm` does.
    pub fn run(&mut self) {
        let packed = Panels::new(operand(&self.b), self.b.precision());
        multiply(&mut self.c, &self.a, &packed);
    }

    /// Computes c with b packed before, as inference finds its weights.
    pub fn run_packed(&mut self) {
        multiply(&mut self.c, &self.a, &self.packed);
    }
}

/// Measures the floating-point operations per second of a large packed product: the best of seven
/// runs, after two that warm up. A training step's utilization is relative to it.
pub fn peak_flops(precision: Precision) -> f64 {
    let mut product = PlainProduct::new([1536, 1024, 1024], precision);
    product.run_packed();
    product.run_packed();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        product.run_packed();
        best = start.elapsed().as_secs_f64().min(best);
    }
    product.flop() / best
}

fn multiply(c: &mut Tensor, a: &Tensor, b: &Panels) {
    let c = RowWriter::new(c);
    product(operand(a), b, |mut tile| {
        // SAFETY: tiles do not overlap.
        unsafe { c.write_tile(0, &mut tile) };
    });
}

fn numbers(rows: usize, columns: usize, precision: Precision) -> Tensor {
    let value = |i: usize| (i * 37 % 1009) as f32 / 504.5 - 1.0;
    let mut tensor = Tensor::uninit_in(precision, [rows, columns]);
    match tensor.values_mut() {
        ValuesMut::F32(values) => values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i)),
        ValuesMut::Bf16(values) => values.iter_mut().enumerate().for_each(|(i, v)| *v = Element::to_bf16(value(i))),
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timed_product_is_the_product() {
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.1)] {
            let mut product = PlainProduct::new([33, 40, 65], precision);
            let runs: [fn(&mut PlainProduct); 2] = [PlainProduct::run, PlainProduct::run_packed];
            for run in runs {
                product.c = Tensor::uninit_in(precision, [33, 65]);
                run(&mut product);
                let (a, b, c) = (product.a.to_host(), product.b.to_host(), product.c.to_host());
                for (i, c) in c.iter().enumerate() {
                    let plain: f32 = (0..40).map(|k| a[i / 65 * 40 + k] * b[k * 65 + i % 65]).sum();
                    assert!((c - plain).abs() < tolerance, "{precision:?} at {i}: {c} for {plain}");
                }
            }
            assert_eq!(product.flop(), 2.0 * (33 * 40 * 65) as f64);
        }
    }
}
