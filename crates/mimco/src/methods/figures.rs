//! Figures of a step: named values that stay on the device until the host reads them.

use mimco_engine::{Scalar, Tensor};
use std::collections::BTreeMap;

/// Figures of a step by metric name. Values of the same name add up.
#[derive(Default)]
pub struct Figures {
    entries: Vec<(&'static str, Value, f64)>,
    losses: Vec<Tensor>,
}

enum Value {
    F32(Tensor),
    F64(Scalar),
}

impl Figures {
    /// Adds a term of the total loss, a tensor of one element. Its finiteness decides about the update.
    pub fn add_loss(&mut self, loss: Tensor) {
        self.add("train/loss", loss.clone(), 1.0);
        self.losses.push(loss);
    }

    /// Adds `factor` times a tensor of one element.
    pub fn add(&mut self, name: &'static str, value: Tensor, factor: f64) {
        self.entries.push((name, Value::F32(value), factor));
    }

    /// Adds a value in f64.
    pub fn add_scalar(&mut self, name: &'static str, value: Scalar) {
        self.entries.push((name, Value::F64(value), 1.0));
    }

    /// Returns the terms of the total loss.
    pub fn losses(&self) -> &[Tensor] {
        &self.losses
    }

    /// Copies the figures to the host.
    pub fn to_host(&self) -> BTreeMap<&'static str, f64> {
        let mut figures = BTreeMap::new();
        for (name, value, factor) in &self.entries {
            let value = match value {
                Value::F32(tensor) => f64::from(tensor.to_host()[0]),
                Value::F64(scalar) => scalar.to_host(),
            };
            *figures.entry(*name).or_default() += factor * value;
        }
        figures
    }
}
