//! What a checkpoint is, for people and scripts: its model, how that is known, and what becomes of each of its tensors.

use super::backbone::{BackboneOverrides, open};
use super::facts::{Facts, Found, Said};
use super::layout::{Fate, Layout};
use crate::Error;
use serde::Serialize;
use std::path::Path;

/// Faults that are told of a file at most.
const FAULTS: usize = 20;

/// A checkpoint, looked at.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// How it is written: `safetensors` or `PyTorch`.
    pub format: String,
    /// Whose names it has.
    pub layout: &'static str,
    /// The architecture's name; its heads are a question mark where nothing tells them.
    pub architecture: String,
    /// Attention heads, where something tells them.
    pub heads: Option<usize>,
    /// Pooling of the feature that was trained.
    pub pooling: crate::evaluation::features::FeatureKind,
    /// Facts that shapes do not tell, and how they are known.
    pub facts: Vec<Said>,
    /// Licence of its source's code, where it is known.
    pub licence: Option<String>,
    /// Settings without which it cannot be run.
    pub open: Vec<String>,
    /// Every tensor of the file.
    pub keys: Vec<Key>,
    /// Parameters that it lacks, by timm's names.
    pub missing: Vec<String>,
    /// Why it cannot be loaded, if it cannot.
    pub faults: Vec<String>,
    /// What else is in it, by kind and number.
    pub left_out: std::collections::BTreeMap<String, usize>,
}

/// A tensor of a file.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Its name there.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub dtype: &'static str,
    /// `used`, `renamed` or `dropped`.
    pub fate: &'static str,
    /// Its name here (timm's), or why it is dropped.
    pub detail: String,
}

/// Looks at a checkpoint without reading its numbers.
///
/// # Errors
/// What cannot be read, is no ViT or is one that cannot be run.
pub fn inspect(path: &Path, overrides: &BackboneOverrides) -> Result<Inspection, Error> {
    let weights = open(path)?;
    let layout = Layout::of(&weights, overrides.encoder.as_deref())?;
    let facts = Facts::of(&weights, &layout, overrides)?;
    let found = Found::new(&weights, &layout)?;
    let keys = layout.keys.iter().filter_map(|(name, fate)| {
        let array = weights.tensors.get(name)?;
        let (fate, detail) = match fate {
            Fate::Is(ours) if ours == name => ("used", ours.clone()),
            Fate::Is(ours) => ("renamed", ours.clone()),
            Fate::Third(ours, which) => ("renamed", format!("{ours}, {} of q, k, v", ["first", "second", "third"][*which])),
            Fate::Dropped(why) => ("dropped", why.to_string()),
        };
        Some(Key { name: name.clone(), shape: array.shape.clone(), dtype: array.dtype.name(), fate, detail })
    });
    let there = |name: &str| found.name(name).is_some() || found.thirds(name).is_some() || found.lacks_bias(name);
    let missing = facts.config.parameters().into_iter().map(|(name, _)| name).filter(|name| !there(name));
    Ok(Inspection {
        format: weights.format.to_string(),
        layout: layout.source.name(),
        architecture: facts.config.name().replace("_h0_", "_h?_"),
        heads: Some(facts.config.heads).filter(|heads| *heads > 0),
        pooling: facts.pooling,
        licence: facts.info.as_ref().map_or(layout.source.licence().map(str::to_string), |info| info.licence.clone()),
        keys: keys.collect(),
        missing: missing.collect(),
        faults: facts.faults(&found, FAULTS),
        left_out: weights.left_out.clone(),
        facts: facts.said,
        open: facts.open,
    })
}

impl Inspection {
    /// As a page of text: facts on top, a line a tensor below.
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("{} of layout {} ({})", self.architecture, self.layout, self.format)];
        lines.extend(self.facts.iter().map(|said| format!("  {}: {} ({})", said.what, said.value, said.whence)));
        lines.extend(self.licence.iter().map(|licence| format!("  licence of the code: {licence}")));
        lines.extend(self.open.iter().map(|open| format!("  to be set: {open}")));
        lines.push(String::new());
        let width = self.keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(0).min(70);
        for key in &self.keys {
            let shape = format!("{:?}", key.shape);
            let detail = if key.fate == "used" { "" } else { key.detail.as_str() };
            let name = super::layout::shown(&key.name);
            lines.push(format!("{:<8} {name:<width$} {:<5} {shape:<18} {detail}", key.fate, key.dtype).trim_end().to_string());
        }
        lines.extend(self.missing.iter().map(|name| format!("missing  {name}")));
        lines.extend(self.faults.iter().map(|fault| format!("fault    {fault}")));
        lines.extend(self.left_out.iter().map(|(what, count)| format!("left out {count} of {what}")));
        let count = |fate: &str| self.keys.iter().filter(|key| key.fate == fate).count();
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
