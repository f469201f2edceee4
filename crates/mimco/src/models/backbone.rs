//! A backbone with its parameters, and the output that serves as an image's feature.

use super::vit::Vit;
use mimco_engine::Parameters;
use serde::{Deserialize, Serialize};

/// Vision transformer with its own parameters.
#[derive(Clone)]
pub struct Backbone {
    /// Architecture, with the places of its parameters.
    pub vit: Vit,
    /// Parameters of the model.
    pub parameters: Parameters,
}

/// Output of a backbone that serves as an image's feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// The class token after the final norm.
    Class,
    /// The mean of the patch tokens after the final norm.
    Mean,
}

impl FeatureKind {
    /// Returns the name of the feature in settings and files.
    pub fn name(self) -> &'static str {
        match self {
            FeatureKind::Class => "class",
            FeatureKind::Mean => "mean",
        }
    }
}
