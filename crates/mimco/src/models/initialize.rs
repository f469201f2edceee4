//! Distributions of initial weights.

use mimco_data::random::{Rng, unit};

/// Fills with Xavier's uniform distribution: U(-a, a), a = sqrt(6 / (inputs + outputs)).
pub fn xavier_uniform(values: &mut [f32], inputs: usize, outputs: usize, rng: &mut impl Rng) {
    uniform(values, (6.0 / (inputs + outputs) as f32).sqrt(), rng);
}

/// Fills with PyTorch's default for linear layers: U(-a, a), a = 1 / sqrt(inputs).
pub fn linear_uniform(values: &mut [f32], inputs: usize, rng: &mut impl Rng) {
    uniform(values, 1.0 / (inputs as f32).sqrt(), rng);
}

fn uniform(values: &mut [f32], a: f32, rng: &mut impl Rng) {
    values.iter_mut().for_each(|v| *v = a * (2.0 * unit(rng) - 1.0));
}

/// Fills with a normal distribution truncated at two std: values outside are drawn again.
pub fn truncated_normal(values: &mut [f32], std: f32, rng: &mut impl Rng) {
    for v in values {
        *v = loop {
            // Box-Muller transform; 1 - u keeps the logarithm finite.
            let (radius, angle) = ((-2.0 * (1.0 - unit(rng)).ln()).sqrt(), std::f32::consts::TAU * unit(rng));
            let normal = radius * angle.cos();
            if normal.abs() <= 2.0 {
                break normal * std;
            }
        };
    }
}
