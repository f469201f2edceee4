//! Choices of precision and optimizer.

use serde::{Deserialize, Serialize};

/// What activations and matrix products are computed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What the machine is fastest in: bf16 where it multiplies it, else f32. A plan has one of the two in its place.
    Auto,
    /// Single precision.
    F32,
    /// Products and activations in bf16; sums, the residual stream, statistics, losses and the weights themselves in single precision.
    Bf16,
}

impl Precision {
    /// As the engine has it.
    pub fn engine(self) -> mimco_engine::Precision {
        match self {
            Precision::Auto => mimco_engine::Precision::best(),
            Precision::F32 => mimco_engine::Precision::F32,
            Precision::Bf16 => mimco_engine::Precision::Bf16,
        }
    }

    /// The one that this machine takes for it.
    pub fn resolved(self) -> Precision {
        match self.engine() {
            mimco_engine::Precision::F32 => Precision::F32,
            mimco_engine::Precision::Bf16 => Precision::Bf16,
        }
    }
}

/// The optimizer's rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW.
    Adamw,
    /// SGD with momentum.
    Sgd,
}
