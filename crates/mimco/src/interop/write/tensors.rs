//! Conversion of parameters and numbers to the form in which exports contain them.

use super::safetensors::NamedTensor;
use crate::models::vit::VitConfig;
use mimco_engine::Parameters;
use std::borrow::Cow;

/// A backbone's parameters on the host, by name.
pub(crate) struct HostParameters<'a> {
    parameters: &'a Parameters,
    values: Cow<'a, [f32]>,
}

impl<'a> HostParameters<'a> {
    /// Copies the parameters to the host; on the CPU borrows them.
    pub fn new(parameters: &'a Parameters) -> HostParameters<'a> {
        HostParameters { parameters, values: parameters.flat_to_host() }
    }

    /// Returns the elements of a parameter.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        let id = self.parameters.find(name)?;
        Some(&self.values[self.parameters.entry(id).range.clone()])
    }
}

/// Returns a backbone's parameters under timm's names. `parameters` may hold them under these names
/// or, as MoCo v3 does, with the prefix `base_encoder.` among others.
pub(crate) fn backbone_tensors<'a>(config: &VitConfig, parameters: &'a HostParameters<'_>) -> Vec<NamedTensor<'a>> {
    let find = |name: &str| parameters.get(name).or_else(|| parameters.get(&format!("base_encoder.{name}")));
    let all = config.parameters().into_iter();
    all.filter_map(|(name, shape)| find(&name).map(|data| (name, shape, data))).collect()
}

/// Returns the f64 with the shortest decimal notation of an f32, so that JSON contains 0.485 and
/// not 0.48500001430511475.
pub(crate) fn shortest_decimal(number: f32) -> f64 {
    format!("{number:e}").parse().unwrap_or(f64::from(number))
}
