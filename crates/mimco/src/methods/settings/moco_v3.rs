//! Settings of MoCo v3.

use super::rules::{check_rules, positive};
use crate::Error;
use crate::methods::spec::{MethodSpec, RecipeDefaults};
use crate::models::vit::VitConfig;
use mimco_data::Filter;
use mimco_data::augment::{RandomOperation, RandomView};
use mimco_data::loader::ViewSpec;
use serde::{Deserialize, Serialize};

/// Settings of MoCo v3 (Chen, Xie and He 2021).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MocoV3Settings {
    /// Temperature τ of InfoNCE; the loss is multiplied by 2τ.
    pub temperature: f32,
    /// Momentum of the momentum encoder at the first step; it rises to 1 along half a cosine.
    pub momentum: f32,
    /// Hidden width of the projector and the predictor.
    pub hidden: usize,
    /// Width of the features that are compared.
    pub out: usize,
    /// Layers of the projector.
    pub projector_layers: usize,
    /// Layers of the predictor.
    pub predictor_layers: usize,
    /// Keep the patch embedding at its random weights, which stabilizes training.
    pub freeze_patch_embed: bool,
    /// Probability of color jitter.
    pub jitter: f32,
    /// Strengths of the color jitter: brightness, contrast, saturation, hue.
    pub jitter_strengths: [f32; 4],
    /// Probability of conversion to grayscale.
    #[serde(rename = "grey")]
    pub grayscale: f32,
    /// Probabilities of a blur in view 1 and in view 2.
    pub blur: [f32; 2],
    /// Smallest and largest standard deviation of the blur in pixels.
    pub blur_sigma: (f32, f32),
    /// Probabilities of solarization in view 1 and in view 2.
    pub solarize: [f32; 2],
}

impl Default for MocoV3Settings {
    fn default() -> MocoV3Settings {
        MocoV3Settings {
            temperature: 0.2,
            momentum: 0.99,
            hidden: 4096,
            out: 256,
            projector_layers: 3,
            predictor_layers: 2,
            freeze_patch_embed: true,
            jitter: 0.8,
            jitter_strengths: [0.4, 0.4, 0.2, 0.1],
            grayscale: 0.2,
            blur: [1.0, 0.1],
            blur_sigma: (0.1, 2.0),
            solarize: [0.0, 0.2],
        }
    }
}

impl MocoV3Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// The first value out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let probabilities = [self.jitter, self.grayscale, self.blur[0], self.blur[1], self.solarize[0], self.solarize[1]];
        let [brightness, contrast, saturation, hue] = self.jitter_strengths;
        let rules = [
            (positive(self.temperature), format!("moco_v3.temperature={}: must be above 0", self.temperature)),
            ((0.0..=1.0).contains(&self.momentum), format!("moco_v3.momentum={}: must be from 0 to 1", self.momentum)),
            (
                (1..=65_536).contains(&self.hidden) && (1..=65_536).contains(&self.out),
                "moco_v3.hidden and moco_v3.out: must be from 1 to 65536".into(),
            ),
            (
                (1..=16).contains(&self.projector_layers) && (1..=16).contains(&self.predictor_layers),
                "moco_v3.projector_layers and moco_v3.predictor_layers: must be from 1 to 16".into(),
            ),
            (
                probabilities.iter().all(|p| (0.0..=1.0).contains(p)),
                "moco_v3.jitter, grey, blur and solarize: must be probabilities from 0 to 1".into(),
            ),
            (
                [brightness, contrast, saturation].iter().all(|s| *s >= 0.0 && s.is_finite()) && (0.0..=0.5).contains(&hue),
                "moco_v3.jitter_strengths: must be 0 or more, the last (hue) at most 0.5".into(),
            ),
            (
                positive(self.blur_sigma.0) && self.blur_sigma.0 <= self.blur_sigma.1 && self.blur_sigma.1 <= 64.0,
                "moco_v3.blur_sigma: must be two increasing numbers above 0 and at most 64".into(),
            ),
        ];
        check_rules(rules)
    }
}

/// MoCo v3's settings: the table `moco_v3`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MocoV3Spec {
    /// The heads, the momentum encoder and the views.
    pub moco_v3: MocoV3Settings,
}

impl MethodSpec for MocoV3Spec {
    fn name(&self) -> &'static str {
        "moco_v3"
    }

    fn defaults(&self) -> RecipeDefaults {
        let (lr, lr_batch, min_lr) = (1.5e-4, 256, 0.0);
        RecipeDefaults { crop_scale: (0.08, 1.0), lr, lr_batch, min_lr, weight_decay: 0.1, decay_all: true, clip: 0.0 }
    }

    fn check(&self, _model: &VitConfig) -> Result<(), Error> {
        self.moco_v3.check()
    }

    fn views(&self, crop_scale: (f32, f32), flip: f32) -> ViewSpec {
        let own = &self.moco_v3;
        let view = |blur, solarize| RandomView {
            crop_scale,
            filter: Filter::Bilinear,
            operations: vec![
                RandomOperation::ColorJitter { probability: own.jitter, strengths: own.jitter_strengths },
                RandomOperation::Grayscale { probability: own.grayscale },
                RandomOperation::Blur { probability: blur, sigma: own.blur_sigma },
                RandomOperation::Solarize { probability: solarize, threshold: 128 },
                RandomOperation::Flip { probability: flip },
            ],
        };
        ViewSpec::Random([0, 1].map(|i| view(own.blur[i], own.solarize[i])).to_vec())
    }
}
