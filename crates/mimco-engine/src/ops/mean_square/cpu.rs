//! The mean squared difference on the CPU.

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn mean_square(tape: &mut Tape<'_>, x: &Var, target: f32) -> Var {
    let n = x.value.elements().max(1) as f64;
    let total: f64 = x.value.data().iter().map(|x| ((x - target) as f64).powi(2)).sum();
    let loss = Tensor::scalar((total / n) as f32);
    if !tape.wants_gradient(&[x], &[]) {
        return Var::constant(loss);
    }
    let x = x.clone();
    tape.record(loss, move |d, pass| {
        let factor = 2.0 * d.data()[0] / n as f32;
        let mut gradient = Tensor::uninit(x.value.dims());
        gradient.data_mut().iter_mut().zip(x.value.data()).for_each(|(g, x)| *g = factor * (x - target));
        pass.add(x.node(), gradient);
    })
}
