//! The settings of the methods. What MimCo's paper leaves open is a setting here; the defaults are this project's choice.

use super::values::{Auto, Layer};
use crate::Error;
use crate::methods::mask::default_unit;
use crate::models::vit::VitConfig;
use serde::{Deserialize, Serialize};

/// What the student does not see: SimMIM's mask.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// Share of the units that is hidden, rounded up.
    pub ratio: f64,
    /// Side of a unit in patches; auto: 32 pixels' worth at 224 px and more, else 2, and the largest divisor of the grid below it.
    pub unit: Auto<usize>,
}

impl Default for Mask {
    fn default() -> Mask {
        Mask { ratio: 0.6, unit: Auto::Auto }
    }
}

impl Mask {
    /// Side of a unit in patches.
    pub fn unit(&self, vit: &VitConfig) -> usize {
        self.unit.set().unwrap_or(default_unit(vit.image, vit.patch))
    }

    pub(super) fn check(&self, vit: &VitConfig) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(Error::Setting(format!("mask.ratio={}: a share from 0 to 1", self.ratio)));
        }
        match self.unit.set() {
            Some(unit) if unit == 0 || !vit.grid().is_multiple_of(unit) => Err(Error::Setting(format!(
                "mask.unit={unit} does not divide the grid of {0} x {0} patches; give a divisor of {0}, or auto",
                vit.grid()
            ))),
            _ => Ok(()),
        }
    }
}

/// MoCo v3's own (Chen, Xie and He 2021).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MocoV3 {
    /// Temperature of InfoNCE; the loss is multiplied by twice of it.
    pub temperature: f32,
    /// The momentum encoder's momentum at the first step; it rises to 1 by half a cosine.
    pub momentum: f32,
    /// Hidden width of projector and predictor.
    pub hidden: usize,
    /// Width of the features that are compared.
    pub out: usize,
    /// Layers of the projector.
    pub projector_layers: usize,
    /// Layers of the predictor.
    pub predictor_layers: usize,
    /// Leave the patch embedding random, which steadies training.
    pub freeze_patch_embed: bool,
    /// Probability of colour jitter.
    pub jitter: f32,
    /// Its strengths: brightness, contrast, saturation, hue.
    pub jitter_strengths: [f32; 4],
    /// Probability of grey.
    pub grey: f32,
    /// Probability of a blur in view 1 and in view 2.
    pub blur: [f32; 2],
    /// Smallest and largest deviation of the blur in pixels.
    pub blur_sigma: (f32, f32),
    /// Probability of solarisation in view 1 and in view 2.
    pub solarize: [f32; 2],
}

impl Default for MocoV3 {
    fn default() -> MocoV3 {
        MocoV3 {
            temperature: 0.2,
            momentum: 0.99,
            hidden: 4096,
            out: 256,
            projector_layers: 3,
            predictor_layers: 2,
            freeze_patch_embed: true,
            jitter: 0.8,
            jitter_strengths: [0.4, 0.4, 0.2, 0.1],
            grey: 0.2,
            blur: [1.0, 0.1],
            blur_sigma: (0.1, 2.0),
            solarize: [0.0, 0.2],
        }
    }
}

impl MocoV3 {
    pub(super) fn check(&self) -> Result<(), Error> {
        let probabilities = [self.jitter, self.grey, self.blur[0], self.blur[1], self.solarize[0], self.solarize[1]];
        let [brightness, contrast, saturation, hue] = self.jitter_strengths;
        let rules = [
            (positive(self.temperature), format!("moco_v3.temperature={}: above 0", self.temperature)),
            ((0.0..=1.0).contains(&self.momentum), format!("moco_v3.momentum={}: from 0 to 1", self.momentum)),
            (
                (1..=65_536).contains(&self.hidden) && (1..=65_536).contains(&self.out),
                "moco_v3.hidden and moco_v3.out: from 1 to 65536".into(),
            ),
            (
                (1..=16).contains(&self.projector_layers) && (1..=16).contains(&self.predictor_layers),
                "moco_v3.projector_layers and moco_v3.predictor_layers: from 1 to 16".into(),
            ),
            (
                probabilities.iter().all(|p| (0.0..=1.0).contains(p)),
                "moco_v3.jitter, grey, blur and solarize: probabilities from 0 to 1".into(),
            ),
            (
                [brightness, contrast, saturation].iter().all(|s| *s >= 0.0 && s.is_finite()) && (0.0..=0.5).contains(&hue),
                "moco_v3.jitter_strengths: 0 or more, the last (hue) at most 0.5".into(),
            ),
            (
                positive(self.blur_sigma.0) && self.blur_sigma.0 <= self.blur_sigma.1 && self.blur_sigma.1 <= 64.0,
                "moco_v3.blur_sigma: two rising numbers above 0 and at most 64".into(),
            ),
        ];
        first_broken(rules)
    }
}

/// What hidden patches are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchLoss {
    /// The teacher's patches of the same image, contrastively.
    ImageNegatives,
    /// The teacher's hidden patches of the whole batch, contrastively.
    BatchNegatives,
    /// The teacher's patch at the same place, by the mean absolute difference.
    L1,
    /// Nothing.
    Off,
}

/// Which of an image's patches are candidates of `image_negatives`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchCandidates {
    /// The hidden ones.
    Masked,
    /// All.
    All,
}

/// What whole images are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageLoss {
    /// The teacher's features of the batch.
    BatchNegatives,
    /// The teacher's feature of the same image, among a queue of past ones.
    Queue,
    /// Nothing.
    Off,
}

/// An image's one feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token.
    Class,
    /// The mean of the patch tokens.
    Mean,
}

/// What maps the student's width to the teacher's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One linear layer.
    Linear,
    /// Two, with GELU between.
    Mlp,
}

/// What is done to the teacher's tokens after its final norm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherNorm {
    /// Nothing more.
    None,
    /// A layer norm without weight and bias.
    Layer,
}

/// What the student begins from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentInit {
    /// Random weights.
    Random,
    /// The teacher's weights.
    Teacher,
}

/// MimCo's own (Zhou et al. 2022).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mimco {
    /// image_negatives, batch_negatives, l1 or off.
    pub patch_loss: PatchLoss,
    /// masked or all, for image_negatives.
    pub patch_candidates: PatchCandidates,
    /// Temperature of the patch loss.
    pub patch_temperature: f32,
    /// Weight of the patch loss.
    pub patch_weight: f32,
    /// Most candidates of batch_negatives.
    pub batch_candidates: usize,
    /// batch_negatives, queue or off.
    pub image_loss: ImageLoss,
    /// Temperature of the image loss.
    pub image_temperature: f32,
    /// Weight of the image loss.
    pub image_weight: f32,
    /// Past features that the queue holds; at most half the images of the set.
    pub queue_size: usize,
    /// Multiply contrastive losses by twice their temperature, as MoCo v3 does.
    pub scale_by_temperature: bool,
    /// class or mean.
    pub pooling: Pooling,
    /// linear or mlp.
    pub head: HeadKind,
    /// The teacher's block whose tokens are the target, from 1; last.
    pub teacher_layer: Layer,
    /// none or layer.
    pub teacher_norm: TeacherNorm,
    /// random or teacher.
    pub student_init: StudentInit,
}

impl Default for Mimco {
    fn default() -> Mimco {
        Mimco {
            patch_loss: PatchLoss::ImageNegatives,
            patch_candidates: PatchCandidates::Masked,
            patch_temperature: 0.2,
            patch_weight: 1.0,
            batch_candidates: 4096,
            image_loss: ImageLoss::BatchNegatives,
            image_temperature: 0.2,
            image_weight: 1.0,
            queue_size: 4096,
            scale_by_temperature: true,
            pooling: Pooling::Class,
            head: HeadKind::Linear,
            teacher_layer: Layer::Last,
            teacher_norm: TeacherNorm::None,
            student_init: StudentInit::Random,
        }
    }
}

impl Mimco {
    pub(super) fn check(&self) -> Result<(), Error> {
        let weight = |w: f32| w >= 0.0 && w.is_finite();
        let rules = [
            (positive(self.patch_temperature), format!("mimco.patch_temperature={}: above 0", self.patch_temperature)),
            (positive(self.image_temperature), format!("mimco.image_temperature={}: above 0", self.image_temperature)),
            (weight(self.patch_weight) && weight(self.image_weight), "mimco.patch_weight and mimco.image_weight: 0 or more".into()),
            (self.batch_candidates > 1, format!("mimco.batch_candidates={}: at least 2", self.batch_candidates)),
            (self.queue_size > 0, "mimco.queue_size=0: at least 1; mimco.image_loss=off switches the loss off".into()),
            (
                self.patch_loss != PatchLoss::Off || self.image_loss != ImageLoss::Off,
                "mimco.patch_loss and mimco.image_loss are both off: nothing would be learned; switch one on".into(),
            ),
        ];
        first_broken(rules)
    }
}

fn positive(x: f32) -> bool {
    x > 0.0 && x.is_finite()
}

fn first_broken<const N: usize>(rules: [(bool, String); N]) -> Result<(), Error> {
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(Error::Setting(what)))
}
