//! Inspection of a checkpoint: its model, where each property comes from, and the use of each
//! tensor.

use super::backbone::open_weights;
use super::read::layouts::{KeyMapping, Layout};
use super::read::printable;
pub use super::read::resolve::Provenance;
use super::read::resolve::ResolvedModel;
use super::read::tensor_map::TensorMap;
use crate::Error;
use crate::models::backbone::FeatureKind;
use crate::models::overrides::BackboneOverrides;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Most shape errors that are reported.
const MOST_ERRORS: usize = 20;

/// Result of [`inspect`].
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// File format: `safetensors` or `PyTorch`.
    pub format: String,
    /// Project whose names the tensors have.
    pub layout: &'static str,
    /// Name of the architecture, with a question mark for an unknown number of heads.
    pub architecture: String,
    /// Attention heads, if known.
    pub heads: Option<usize>,
    /// Feature that the pre-training trained.
    pub pooling: FeatureKind,
    /// Properties that do not follow from shapes, and their origins.
    #[serde(rename = "facts")]
    pub provenance: Vec<Provenance>,
    /// License of the project's code, if known.
    #[serde(rename = "licence")]
    pub license: Option<String>,
    /// Settings that are required to load the model, each with the reason.
    #[serde(rename = "open")]
    pub unresolved: Vec<String>,
    /// All tensors of the file.
    pub keys: Vec<Key>,
    /// Parameters that the file lacks, by timm's names.
    pub missing: Vec<String>,
    /// Reasons why the checkpoint cannot be loaded.
    #[serde(rename = "faults")]
    pub shape_errors: Vec<String>,
    /// Skipped contents of the file: number of occurrences by type or class.
    pub left_out: BTreeMap<String, usize>,
}

/// Tensor of a file.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Name in the file.
    pub name: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// Element type in the file, by PyTorch's name.
    pub dtype: &'static str,
    /// Use of the tensor: `used`, `renamed` or `dropped`.
    #[serde(rename = "fate")]
    pub mapping: &'static str,
    /// Name of its parameter (timm's), or the reason why it is dropped.
    pub detail: String,
}

/// Inspects a checkpoint without reading its elements.
///
/// # Errors
/// A file that cannot be read or is not a ViT's, or a model of an unsupported kind.
pub fn inspect(path: &Path, overrides: &BackboneOverrides) -> Result<Inspection, Error> {
    let weights = open_weights(path)?;
    let layout = Layout::detect(&weights, overrides.encoder.as_deref())?;
    let resolved = ResolvedModel::resolve(&weights, &layout, overrides)?;
    let map = TensorMap::new(&weights, &layout)?;
    let keys = layout.keys.iter().filter_map(|(name, mapping)| {
        let array = weights.tensors.get(name)?;
        let (mapping, detail) = match mapping {
            KeyMapping::Parameter(parameter) if parameter == name => ("used", parameter.clone()),
            KeyMapping::Parameter(parameter) => ("renamed", parameter.clone()),
            KeyMapping::QkvPart(parameter, part) => ("renamed", format!("{parameter}, {} of q, k, v", ["first", "second", "third"][*part])),
            KeyMapping::Ignored(reason) => ("dropped", reason.to_string()),
        };
        Some(Key { name: name.clone(), shape: array.shape.clone(), dtype: array.dtype.name(), mapping, detail })
    });
    let missing = resolved.config.parameters().into_iter().map(|(name, _)| name).filter(|name| !map.has(name));
    Ok(Inspection {
        format: weights.format.to_string(),
        layout: layout.project.name(),
        architecture: resolved.config.name().replace("_h0_", "_h?_"),
        heads: Some(resolved.config.heads).filter(|heads| *heads > 0),
        pooling: resolved.pooling,
        license: resolved.info.as_ref().map_or(layout.project.license().map(str::to_string), |info| info.license.clone()),
        keys: keys.collect(),
        missing: missing.collect(),
        shape_errors: resolved.shape_errors(&map, MOST_ERRORS),
        left_out: weights.left_out.clone(),
        provenance: resolved.provenance,
        unresolved: resolved.unresolved,
    })
}

impl Inspection {
    /// Formats as text: the properties first, then one line a tensor.
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("{} of layout {} ({})", self.architecture, self.layout, self.format)];
        lines.extend(self.provenance.iter().map(|value| format!("  {}: {} ({})", value.property, value.value, value.origin)));
        lines.extend(self.license.iter().map(|license| format!("  license of the code: {license}")));
        lines.extend(self.unresolved.iter().map(|setting| format!("  to be set: {setting}")));
        lines.push(String::new());
        let width = self.keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(0).min(70);
        for key in &self.keys {
            let shape = format!("{:?}", key.shape);
            let detail = if key.mapping == "used" { "" } else { key.detail.as_str() };
            let name = printable(&key.name);
            lines.push(format!("{:<8} {name:<width$} {:<5} {shape:<18} {detail}", key.mapping, key.dtype).trim_end().to_string());
        }
        lines.extend(self.missing.iter().map(|name| format!("missing  {name}")));
        lines.extend(self.shape_errors.iter().map(|error| format!("error    {error}")));
        lines.extend(self.left_out.iter().map(|(what, count)| format!("skipped  {count} of {what}")));
        let count = |mapping: &str| self.keys.iter().filter(|key| key.mapping == mapping).count();
        lines.push(String::new());
        lines.push(format!(
            "{} used, {} renamed, {} dropped, {} missing",
            count("used"),
            count("renamed"),
            count("dropped"),
            self.missing.len()
        ));
        lines.join("\n")
    }
}
