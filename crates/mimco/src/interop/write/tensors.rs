//! Conversion of parameters and numbers to the form in which exports contain them.

use super::safetensors::NamedTensor;
use crate::models::vit::VitConfig;
use mimco_engine::Parameters;

/// Returns a backbone's parameters under timm's names. `parameters` may hold them under these names
/// or, as MoCo v3 does, with the prefix `base_encoder.` among others.
pub(crate) fn backbone_tensors<'a>(config: &VitConfig, parameters: &'a Parameters) -> Vec<NamedTensor<'a>> {
    let find = |name: &str| parameters.find(name).or_else(|| parameters.find(&format!("base_encoder.{name}")));
    let all = config.parameters().into_iter();
    all.filter_map(|(name, shape)| find(&name).map(|id| (name, shape, parameters.get(id)))).collect()
}

/// Returns the f64 with the shortest decimal notation of an f32, so that JSON contains 0.485 and
/// not 0.48500001430511475.
pub(crate) fn shortest_decimal(number: f32) -> f64 {
    format!("{number:e}").parse().unwrap_or(f64::from(number))
}
