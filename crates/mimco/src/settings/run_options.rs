//! Choices of precision and optimizer.

use serde::{Deserialize, Serialize};

/// Precision of activations and matrix products.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 if the processor multiplies it, else f32.
    Auto,
    /// Single precision.
    F32,
    /// bf16, with sums, the residual stream, statistics, losses and master weights in single precision.
    Bf16,
}

impl Precision {
    /// Returns the engine's precision; `Auto` depends on the processor.
    pub fn engine(self) -> mimco_engine::Precision {
        match self {
            Precision::Auto => mimco_engine::Precision::best(),
            Precision::F32 => mimco_engine::Precision::F32,
            Precision::Bf16 => mimco_engine::Precision::Bf16,
        }
    }

    /// Resolves `Auto` for this processor.
    pub fn resolved(self) -> Precision {
        match self.engine() {
            mimco_engine::Precision::F32 => Precision::F32,
            mimco_engine::Precision::Bf16 => Precision::Bf16,
        }
    }
}

/// Rule of the optimizer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW.
    Adamw,
    /// SGD with momentum.
    Sgd,
}
