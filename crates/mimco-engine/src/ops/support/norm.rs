//! Parameters of a layer normalization.

use crate::parameters::{ParameterId, Parameters};

/// Parameters of a layer normalization.
#[derive(Clone, Copy)]
pub struct Norm {
    /// Weight `[width]`.
    pub weight: ParameterId,
    /// Bias `[width]`.
    pub bias: ParameterId,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Checks that weight and bias have `width` elements.
    pub(in crate::ops) fn check_width(&self, parameters: &Parameters, width: usize) {
        let [weight, bias] = [self.weight, self.bias].map(|id| parameters.entry(id));
        assert!(weight.range.len() == width && bias.range.len() == width, "{}: width", weight.name);
    }
}
