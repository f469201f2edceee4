//! Mean absolute difference on the CPU.

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn l1(tape: &mut Tape<'_>, prediction: &Var, target: &Tensor) -> Var {
    let (p, t) = (prediction.value.data(), target.data());
    let n = p.len().max(1) as f64;
    let total: f64 = p.iter().zip(t).map(|(p, t)| (p - t).abs() as f64).sum();
    let loss = Tensor::scalar((total / n) as f32);
    if !tape.wants_gradient(&[prediction], &[]) {
        return Var::constant(loss);
    }
    let (prediction, target) = (prediction.clone(), target.clone());
    tape.record(loss, move |d, pass| {
        let weight = d.data()[0] / n as f32;
        let mut gradient = Tensor::uninit(prediction.value.dims());
        let pairs = prediction.value.data().iter().zip(target.data());
        for (g, (p, t)) in gradient.data_mut().iter_mut().zip(pairs) {
            *g = if p > t {
                weight
            } else if p < t {
                -weight
            } else {
                p - t // 0, or NaN, which is kept
            };
        }
        pass.add(prediction.node(), gradient);
    })
}
