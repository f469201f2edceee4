//! The methods' heads: MoCo v3's projector and predictor with batch norm, MimCo's light heads.

use super::initialize::{linear_uniform, truncated_normal};
use mimco_data::random::{Purpose, keyed};
use mimco_engine::ops::{Activation, Layer, RunningStatistics};
use mimco_engine::{ParameterId, Parameters, Tape, Var};

/// Linear layers without bias, each followed by batch norm and ReLU. The last has neither ReLU nor
/// weight and bias in its norm.
#[derive(Clone)]
pub struct BatchNormMlp {
    layers: Vec<ParameterId>,
    norms: Vec<(ParameterId, ParameterId)>,
    widths: Vec<usize>,
}

impl BatchNormMlp {
    /// Adds the parameters, as zeros. `widths` are input, hidden ..., output; names are
    /// `prefix.layers.I.weight`, `prefix.norms.I.weight` and `prefix.norms.I.bias`.
    pub fn declare(parameters: &mut Parameters, prefix: &str, widths: &[usize]) -> Self {
        let count = widths.len() - 1;
        let layers = (0..count).map(|i| parameters.add(format!("{prefix}.layers.{i}.weight"), &[widths[i + 1], widths[i]])).collect();
        let norms = (0..count - 1)
            .map(|i| {
                let mut add = |what| parameters.add(format!("{prefix}.norms.{i}.{what}"), &[widths[i + 1]]);
                (add("weight"), add("bias"))
            })
            .collect();
        BatchNormMlp { layers, norms, widths: widths.to_vec() }
    }

    /// Sets weights to PyTorch's default, norms to 1 and 0. `index` keys the draws of this head.
    pub fn initialize(&self, parameters: &mut Parameters, seed: u64, index: u64) {
        let rng = &mut keyed(seed, Purpose::Init, 1, index);
        for (layer, &inputs) in self.layers.iter().zip(&self.widths) {
            parameters.update_on_host(*layer, |weight| linear_uniform(weight, inputs, rng));
        }
        for (weight, _) in &self.norms {
            parameters.update_on_host(*weight, |weight| weight.fill(1.0));
        }
    }

    /// Returns initial running statistics, one for each norm.
    pub fn statistics(&self) -> Vec<RunningStatistics> {
        self.widths[1..].iter().map(|&width| RunningStatistics::new(width)).collect()
    }

    /// Maps x [rows, input] to [rows, output]. Each norm uses the batch's statistics and updates its
    /// running ones.
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var, statistics: &mut [RunningStatistics]) -> Var {
        let mut x = x.clone();
        for (i, (&layer, statistics)) in self.layers.iter().zip(statistics).enumerate() {
            x = tape.linear(&x, Layer { weight: layer, bias: None }, Activation::None);
            let affine = self.norms.get(i).copied();
            x = tape.batch_norm(&x, affine, affine.is_some(), statistics);
        }
        x
    }
}

/// One linear layer, or several with GELU between them: from the student's width to the teacher's.
#[derive(Clone)]
pub struct LightHead {
    layers: Vec<Layer>,
}

impl LightHead {
    /// Adds the parameters, as zeros. `widths` are input, hidden ..., output; names are
    /// `prefix.I.weight` and `prefix.I.bias`.
    pub fn declare(parameters: &mut Parameters, prefix: &str, widths: &[usize]) -> Self {
        let layers = widths
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let weight = parameters.add(format!("{prefix}.{i}.weight"), &[pair[1], pair[0]]);
                Layer { weight, bias: Some(parameters.add(format!("{prefix}.{i}.bias"), &[pair[1]])) }
            })
            .collect();
        LightHead { layers }
    }

    /// Sets weights to a truncated normal of std 0.02, biases to 0. `index` keys the draws of this head.
    pub fn initialize(&self, parameters: &mut Parameters, seed: u64, index: u64) {
        let rng = &mut keyed(seed, Purpose::Init, 2, index);
        for layer in &self.layers {
            parameters.update_on_host(layer.weight, |weight| truncated_normal(weight, 0.02, rng));
        }
    }

    /// Maps x [rows, input] to [rows, output].
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var) -> Var {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x.clone(), |x, (i, &layer)| {
            let activation = if i < last { Activation::Gelu } else { Activation::None };
            tape.linear(&x, layer, activation)
        })
    }
}
