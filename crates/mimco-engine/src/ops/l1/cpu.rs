//! Mean absolute difference between a prediction and a constant target of the same size.

use crate::{Tape, Tensor, Var};

impl Tape<'_> {
    /// prediction and target [rows, width] -> a scalar, mean |prediction - target|; 0 over no row.
    pub fn l1(&mut self, prediction: &Var, target: &Tensor) -> Var {
        let (p, t) = (prediction.value.data(), target.data());
        assert_eq!(p.len(), t.len(), "prediction and target differ in size");
        let n = p.len().max(1) as f64;
        let total: f64 = p.iter().zip(t).map(|(p, t)| (p - t).abs() as f64).sum();
        let loss = Tensor::scalar((total / n) as f32);
        if !self.wants_gradient(&[prediction], &[]) {
            return Var::constant(loss);
        }
        let (prediction, target) = (prediction.clone(), target.clone());
        self.record(loss, move |d, pass| {
            let share = d.item() / n as f32;
            let mut gradient = Tensor::stale(prediction.value.dims());
            let pairs = prediction.value.data().iter().zip(target.data());
            for (g, (p, t)) in gradient.data_mut().iter_mut().zip(pairs) {
                *g = if p > t {
                    share
                } else if p < t {
                    -share
                } else {
                    p - t // 0, or NaN, which must not be lost
                };
            }
            pass.add(prediction.node(), gradient);
        })
    }
}
