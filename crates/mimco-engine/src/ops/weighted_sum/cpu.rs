//! A sum of scalar losses, each with its weight.

use crate::{Tape, Tensor, Var};

impl Tape<'_> {
    /// Σ weight · loss over scalars -> a scalar.
    pub fn weighted_sum(&mut self, losses: &[(Var, f32)]) -> Var {
        let total = losses.iter().map(|(loss, weight)| loss.value.item() * weight).sum();
        let inputs: Vec<&Var> = losses.iter().map(|(loss, _)| loss).collect();
        let value = Tensor::scalar(total);
        if !self.wants_gradient(&inputs, &[]) {
            return Var::constant(value);
        }
        let parts: Vec<(Option<usize>, f32)> = losses.iter().map(|(loss, weight)| (loss.node(), *weight)).collect();
        self.record(value, move |d, pass| {
            parts.into_iter().for_each(|(node, weight)| pass.add(node, Tensor::scalar(d.item() * weight)));
        })
    }
}
