//! Matrix products of the sizes of a transformer's layers.

use super::{Rate, rate};
use mimco_engine::{PlainProduct, Precision};
use serde::Serialize;

/// Rates of a product in GFLOP/s.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// Rows, inner dimension and columns.
    pub shape: [usize; 3],
    /// Rate from plain matrices, with the packing of the right factor, as `torch.mm` does.
    pub gflops: Rate,
    /// Rate with the right factor packed before, as inference finds its weights.
    pub gflops_packed: Rate,
}

/// Times a product of `[rows, inner, columns]`, with factors and result in `precision`.
pub fn time(shape: [usize; 3], precision: Precision, repeats: usize) -> Product {
    let mut product = PlainProduct::new(shape, precision);
    let gflop = product.flop() / 1e9;
    let gflops_packed = rate(gflop, repeats, || product.run_packed());
    let gflops = rate(gflop, repeats, || product.run());
    Product { shape, gflops, gflops_packed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_has_a_rate() {
        let timed = time([4, 5, 6], Precision::F32, 1);
        assert_eq!(timed.shape, [4, 5, 6]);
        assert!(timed.gflops.best > 0.0 && timed.gflops_packed.best > 0.0);
    }
}
