//! Parameters of an affine map, and the activation after it.

use crate::parameters::{ParameterId, Parameters};

/// Function applied to the outputs of an affine map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// No activation.
    None,
    /// Exact GELU (by erf).
    Gelu,
}

/// Parameters of an affine map.
#[derive(Clone, Copy)]
pub struct Layer {
    /// Weight [outputs, inputs].
    pub weight: ParameterId,
    /// Bias `[outputs]`.
    pub bias: Option<ParameterId>,
}

impl Layer {
    /// The parameters, for [`Tape::wants_gradient`](crate::Tape::wants_gradient). The weight takes
    /// the place of a missing bias.
    pub(in crate::ops) fn parameters(&self) -> [ParameterId; 2] {
        [self.weight, self.bias.unwrap_or(self.weight)]
    }

    /// Sizes of the weight as a matrix, [outputs, inputs].
    pub(in crate::ops) fn sizes(&self, parameters: &Parameters) -> [usize; 2] {
        let entry = parameters.entry(self.weight);
        [entry.shape[0], entry.range.len() / entry.shape[0].max(1)]
    }
}
