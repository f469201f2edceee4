//! Description of a run's backbone, for its export and checkpoints.

use crate::interop::info::Info;
use crate::models::vit::Vit;
use crate::settings::Config;

/// Describes the backbone of a run after `steps` updates. `data` is the digest of its images.
pub(super) fn backbone_info(config: &Config, vit: &Vit, steps: u64, data: Option<u64>, teacher: Option<&Info>) -> Info {
    let method = config.method.spec();
    Info {
        seed: Some(config.seed),
        steps: Some(steps),
        recipe: Some(config.reproducible_settings()),
        data: data.map(|digest| format!("{digest:016x}")),
        teacher: teacher.map(|teacher| format!("{} {}", teacher.method, teacher.architecture)),
        license: teacher.and_then(|teacher| teacher.license.clone()),
        ..Info::new(&vit.config, method.name(), method.feature())
    }
}
