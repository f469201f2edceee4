//! Random numbers of normal and Beta distributions.

use crate::random::unit;
use rand_chacha::ChaCha8Rng;
use std::f32::consts::TAU;

/// Fills a slice with standard normal numbers, by Box and Muller's method (two at a time).
pub fn fill_normal(out: &mut [f32], rng: &mut ChaCha8Rng) {
    for pair in out.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
        let (sine, cosine) = (TAU * unit(rng)).sin_cos();
        pair.iter_mut().zip([radius * cosine, radius * sine]).for_each(|(o, x)| *o = x);
    }
}

/// Returns a standard normal number.
pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let mut one = [0.0];
    fill_normal(&mut one, rng);
    one[0]
}

/// Returns a number of Beta(alpha, alpha), from 0 to 1. `alpha` is above 0.
pub fn beta(alpha: f32, rng: &mut ChaCha8Rng) -> f32 {
    // Beyond these bounds the result is 0, 1 or 0.5 anyway; within them all numbers below are
    // finite.
    let alpha = alpha.clamp(1e-6, 1e6) as f64;
    let (one, other) = (log_gamma(alpha, rng), log_gamma(alpha, rng));
    (1.0 / (1.0 + (other - one).exp())) as f32
}

/// Returns the logarithm of a number of Gamma(shape, 1), as small shapes have numbers too small for
/// f64. Marsaglia and Tsang's method needs a shape of at least 1; a smaller shape multiplies a
/// number of shape + 1 by u^(1 / shape).
fn log_gamma(shape: f64, rng: &mut ChaCha8Rng) -> f64 {
    let log_unit = |rng: &mut ChaCha8Rng| (1.0 - unit(rng) as f64).ln();
    if shape < 1.0 {
        return log_gamma(shape + 1.0, rng) + log_unit(rng) / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng) as f64;
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && log_unit(rng) < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            return (d * v).ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, keyed};

    fn fraction(values: &[f32], below: f32) -> f64 {
        values.iter().filter(|v| **v < below).count() as f64 / values.len() as f64
    }

    /// Returns mean and variance.
    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| *v as f64).sum::<f64>() / n;
        (mean, values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n)
    }

    /// Quantiles of tables: 10 % are below -1.2816, 99.9 % below 3.0902. The count is odd, so the
    /// last pair is incomplete.
    #[test]
    fn normal_numbers_are_normal() {
        let mut values = vec![0.0; 200_001];
        fill_normal(&mut values, &mut keyed(0, Purpose::View(0), 0, 0));
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.008 && (variance - 1.0).abs() < 0.012, "{mean} {variance}");
        assert!((fraction(&values, -1.2816) - 0.1).abs() < 0.003);
        assert!((fraction(&values, 3.0902) - 0.999).abs() < 0.0003);
        let neighbours = values.windows(2).map(|pair| pair[0] as f64 * pair[1] as f64).sum::<f64>() / values.len() as f64;
        assert!(neighbours.abs() < 0.01, "neighbours correlate: {neighbours}");
    }

    /// Values of scipy's `beta`: variance 1 / (4 (2 alpha + 1)) and the quantiles of 5, 10 and 25
    /// %.
    #[test]
    fn beta_numbers_have_their_variance_and_quantiles() {
        for (alpha, variance, quantiles) in [
            (0.2, 0.178571, [7.7439e-6, 2.4776e-4, 0.023815]),
            (0.8, 0.096154, [0.030014, 0.071050, 0.219295]),
            (1.0, 0.083333, [0.05, 0.1, 0.25]),
            (2.5, 0.041667, [0.165280, 0.224569, 0.345464]),
        ] {
            let mut rng = keyed(0, Purpose::View(0), 0, 0);
            let values: Vec<f32> = (0..50_000).map(|_| beta(alpha, &mut rng)).collect();
            let (mean, measured) = moments(&values);
            assert!((mean - 0.5).abs() < 0.006 && (measured - variance).abs() < 0.002, "{alpha}: {mean} {measured}");
            for (quantile, expected) in quantiles.into_iter().zip([0.05, 0.1, 0.25]) {
                let measured = fraction(&values, quantile);
                assert!((measured - expected).abs() < 0.006, "{alpha}: {measured} are below {quantile}, not {expected}");
            }
        }
    }

    #[test]
    fn extreme_shapes_give_numbers_from_0_to_1() {
        let mut rng = keyed(0, Purpose::View(0), 0, 0);
        for alpha in [f32::MIN_POSITIVE, 1e-3, 1e9, f32::INFINITY] {
            for _ in 0..100 {
                let value = beta(alpha, &mut rng);
                assert!((0.0..=1.0).contains(&value), "{alpha}: {value}");
                assert!(alpha < 1.0 || (value - 0.5).abs() < 0.01, "{alpha}: {value}");
            }
        }
    }
}
