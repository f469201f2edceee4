//! Identity of a run: digests of settings, images, teacher and initial weights.

use super::images::Images;
use crate::models::backbone::Backbone;
use crate::settings::Config;
use mimco_data::Dataset;

/// Returns the identity of a run. A checkpoint with another identity belongs to another run.
pub(super) fn identity(config: &Config, images: &Images, backbones: [Option<&Backbone>; 2]) -> String {
    // Checkpoints of earlier versions contain this digest: another function would end their resume.
    let mix = |hash: u64, bits: u64| (hash ^ bits).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    let val = images.val.as_ref().map_or(0, Dataset::digest);
    let settings = config.reproducible_settings().bytes().fold(0, |hash, byte| mix(hash, byte as u64));
    let backbones = backbones.map(|backbone| {
        backbone.map_or(String::new(), |backbone| {
            let weights = backbone.parameters.flat_to_host().iter().fold(0, |hash, weight| mix(hash, weight.to_bits() as u64));
            let vit = &backbone.vit.config;
            format!("{weights:016x} {} {:?} {:?}", vit.name(), vit.mean, vit.std)
        })
    });
    format!("{settings:016x}-{:016x}-{val:016x}-{}", images.train.digest(), backbones.join("-"))
}
