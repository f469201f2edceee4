//! Description of a backbone that its files carry in their metadata.

use crate::Error;
use crate::models::backbone::FeatureKind;
use crate::models::vit::VitConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Metadata key under which a file stores its [`Info`] as JSON.
pub const KEY: &str = "mimco";

/// Description and origin of a backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Architecture with sizes and heads.
    pub model: VitConfig,
    /// Name of the architecture.
    pub architecture: String,
    /// Training method, `random` for an untrained model; for a foreign checkpoint its project.
    pub method: String,
    /// Seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Number of updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Feature that the method trained.
    pub pooling: FeatureKind,
    /// Settings that determine the weights, one `key=value` a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Digest of the training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Method and architecture of the teacher, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// License of the code of the project, or of the teacher's project, if known.
    #[serde(default, rename = "licence", skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

impl Info {
    /// Describes a backbone of which only the model, the method and the feature are known.
    pub fn new(model: &VitConfig, method: &str, pooling: FeatureKind) -> Info {
        Info {
            model: model.clone(),
            architecture: model.name(),
            method: method.to_string(),
            seed: None,
            steps: None,
            pooling,
            recipe: None,
            data: None,
            teacher: None,
            license: None,
        }
    }

    /// Serializes to one line of JSON for the metadata of the file `path`.
    pub(crate) fn to_json(&self, path: &Path) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::file(path, e))
    }

    /// Returns the metadata of the safetensors file `path`.
    pub(super) fn metadata(&self, path: &Path) -> Result<BTreeMap<String, String>, Error> {
        Ok(BTreeMap::from([(KEY.to_string(), self.to_json(path)?), ("format".to_string(), "pt".to_string())]))
    }
}
