//! Metrics of a step: named values that remain on the device until the host reads them.

use mimco_engine::{Scalar, Tensor};
use std::collections::BTreeMap;

/// Metric of the total loss.
const LOSS: &str = "train/loss";

/// Metrics of a step by name. Values of the same name add up.
#[derive(Default)]
pub struct StepMetrics {
    entries: Vec<(&'static str, Value, f64)>,
}

enum Value {
    F32(Tensor),
    F64(Scalar),
}

impl StepMetrics {
    /// Adds a term of the total loss, a tensor of one element. The update needs it to be finite.
    pub fn add_loss(&mut self, loss: Tensor) {
        self.add(LOSS, loss, 1.0);
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
    pub fn losses(&self) -> impl Iterator<Item = &Tensor> {
        self.entries.iter().filter_map(|(name, value, _)| match value {
            Value::F32(loss) if *name == LOSS => Some(loss),
            _ => None,
        })
    }

    /// Copies the metrics to the host.
    pub fn to_host(&self) -> BTreeMap<&'static str, f64> {
        let mut metrics = BTreeMap::new();
        for (name, value, factor) in &self.entries {
            let value = match value {
                Value::F32(tensor) => f64::from(tensor.to_host()[0]),
                Value::F64(scalar) => scalar.to_host(),
            };
            *metrics.entry(*name).or_default() += factor * value;
        }
        metrics
    }
}
