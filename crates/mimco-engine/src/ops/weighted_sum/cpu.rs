//! The weighted sum of losses on the CPU.

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn weighted_sum(tape: &mut Tape<'_>, losses: &[(Var, f32)]) -> Var {
    let total = losses.iter().map(|(loss, weight)| loss.value.data()[0] * weight).sum();
    let inputs: Vec<&Var> = losses.iter().map(|(loss, _)| loss).collect();
    let value = Tensor::scalar(total);
    if !tape.wants_gradient(&inputs, &[]) {
        return Var::constant(value);
    }
    let parts: Vec<(Option<usize>, f32)> = losses.iter().map(|(loss, weight)| (loss.node(), *weight)).collect();
    tape.record(value, move |d, pass| {
        parts.into_iter().for_each(|(node, weight)| pass.add(node, Tensor::scalar(d.data()[0] * weight)));
    })
}
