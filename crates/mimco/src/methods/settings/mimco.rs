//! Settings of MimCo.

use super::mask::MaskSettings;
use super::rules::{check_rules, positive};
use crate::Error;
use crate::methods::spec::{MethodSpec, RecipeDefaults};
use crate::models::backbone::FeatureKind;
use crate::models::vit::VitConfig;
use crate::values::BlockChoice;
use mimco_data::Filter;
use mimco_data::augment::{RandomOperation, RandomView};
use mimco_data::loader::ViewSpec;
use serde::{Deserialize, Serialize};

/// Loss of the masked patches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchLoss {
    /// Contrastive, against the teacher's patches of the same image.
    ImageNegatives,
    /// Contrastive, against the teacher's masked patches of the whole batch.
    BatchNegatives,
    /// Mean absolute difference to the teacher's patch at the same position.
    L1,
    /// No loss.
    Off,
}

/// Candidates of `image_negatives`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchCandidates {
    /// The masked patches of the image.
    Masked,
    /// All patches of the image.
    All,
}

/// Loss of the whole image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageLoss {
    /// Contrastive, against the teacher's features of the batch.
    BatchNegatives,
    /// Contrastive, against the teacher's feature of the image and a queue of past ones.
    Queue,
    /// No loss.
    Off,
}

/// Feature of a whole image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token.
    Class,
    /// The mean of the patch tokens.
    Mean,
}

/// Head that maps the student's width to the teacher's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One linear layer.
    Linear,
    /// Two linear layers with GELU between them.
    Mlp,
}

/// Normalization of the teacher's tokens after its final norm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherNorm {
    /// No further normalization.
    None,
    /// A layer norm without weight and bias.
    Layer,
}

/// Initial weights of the student.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentInit {
    /// Random weights.
    Random,
    /// The teacher's weights.
    Teacher,
}

/// Settings of MimCo (Zhou et al. 2022). The paper's abstract leaves them open; the defaults are ours.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MimcoSettings {
    /// Patch loss: image_negatives, batch_negatives, l1 or off.
    pub patch_loss: PatchLoss,
    /// Candidates of image_negatives: masked or all.
    pub patch_candidates: PatchCandidates,
    /// Temperature of the patch loss.
    pub patch_temperature: f32,
    /// Weight of the patch loss.
    pub patch_weight: f32,
    /// Largest number of candidates of batch_negatives.
    pub batch_candidates: usize,
    /// Image loss: batch_negatives, queue or off.
    pub image_loss: ImageLoss,
    /// Temperature of the image loss.
    pub image_temperature: f32,
    /// Weight of the image loss.
    pub image_weight: f32,
    /// Capacity of the queue of past features; at most half the images of the set.
    pub queue_size: usize,
    /// Multiply contrastive losses by twice their temperature, as MoCo v3 does.
    pub scale_by_temperature: bool,
    /// Feature of a whole image: class or mean.
    pub pooling: Pooling,
    /// Head: linear or mlp.
    pub head: HeadKind,
    /// Block of the teacher whose tokens are the targets: a number from 1, or last.
    pub teacher_layer: BlockChoice,
    /// Normalization of the teacher's tokens: none or layer.
    pub teacher_norm: TeacherNorm,
    /// Initial weights of the student: random or teacher.
    pub student_init: StudentInit,
}

impl Default for MimcoSettings {
    fn default() -> MimcoSettings {
        MimcoSettings {
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
            teacher_layer: BlockChoice::Last,
            teacher_norm: TeacherNorm::None,
            student_init: StudentInit::Random,
        }
    }
}

impl MimcoSettings {
    /// Checks the values.
    ///
    /// # Errors
    /// The first value out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let weight = |w: f32| w >= 0.0 && w.is_finite();
        let rules = [
            (positive(self.patch_temperature), format!("mimco.patch_temperature={}: must be above 0", self.patch_temperature)),
            (positive(self.image_temperature), format!("mimco.image_temperature={}: must be above 0", self.image_temperature)),
            (weight(self.patch_weight) && weight(self.image_weight), "mimco.patch_weight and mimco.image_weight: must be 0 or more".into()),
            (self.batch_candidates > 1, format!("mimco.batch_candidates={}: must be at least 2", self.batch_candidates)),
            (self.queue_size > 0, "mimco.queue_size=0: must be at least 1; mimco.image_loss=off switches the loss off".into()),
            (
                self.patch_loss != PatchLoss::Off || self.image_loss != ImageLoss::Off,
                "mimco.patch_loss and mimco.image_loss are both off, so nothing is trained; switch one on".into(),
            ),
        ];
        check_rules(rules)
    }

    /// Checks whether a teacher fits a student of these sizes.
    ///
    /// # Errors
    /// Another grid of tokens than the student's, a block that the teacher lacks, or, where the
    /// student starts from the teacher's weights, another shape.
    pub fn check_teacher(&self, teacher: &VitConfig, student: &VitConfig) -> Result<(), Error> {
        if teacher.grid() != student.grid() || teacher.image != student.image {
            return Err(Error::Setting(format!(
                "the teacher's tokens do not match the student's: the teacher has {0}x{0} patches of {1} px at {2} px, the student {3}x{3} of \
                 {4} px at {5} px; set model.patch_size={1} and model.image_size={2} (or teacher.model.image_size={5}, which resizes the \
                 teacher's positions), or use another teacher",
                teacher.grid(),
                teacher.patch,
                teacher.image,
                student.grid(),
                student.patch,
                student.image
            )));
        }
        if let Some(layer) = self.teacher_layer.value().filter(|&layer| layer < 1 || layer > teacher.depth) {
            return Err(Error::Setting(format!(
                "mimco.teacher_layer={layer}: the teacher has blocks 1 to {}; give one of them, or last",
                teacher.depth
            )));
        }
        let shape = |vit: &VitConfig| (vit.width, vit.depth, vit.heads, vit.mlp, vit.patch, vit.registers, vit.layer_scale != 0.0);
        if self.student_init == StudentInit::Teacher && shape(teacher) != shape(student) {
            return Err(Error::Setting(format!(
                "mimco.student_init=teacher needs a student of the teacher's shape, which is {}, not {}; set model.arch, model.heads, \
                 model.registers and model.layer_scale, or mimco.student_init=random",
                teacher.name(),
                student.name()
            )));
        }
        Ok(())
    }
}

/// MimCo's settings: the tables `mask` and `mimco`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MimcoSpec {
    /// The patch mask.
    pub mask: MaskSettings,
    /// The losses, the heads and the teacher.
    pub mimco: MimcoSettings,
}

impl MethodSpec for MimcoSpec {
    fn name(&self) -> &'static str {
        "mimco"
    }

    fn defaults(&self) -> RecipeDefaults {
        let (lr, lr_batch, min_lr) = (2e-4, 512, 1e-5);
        RecipeDefaults { crop_scale: (0.67, 1.0), lr, lr_batch, min_lr, weight_decay: 0.05, decay_all: false, clip: 5.0 }
    }

    fn check(&self, model: &VitConfig) -> Result<(), Error> {
        self.mask.check(model)?;
        self.mimco.check()
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn check_teacher(&self, teacher: &VitConfig, student: &VitConfig) -> Result<(), Error> {
        self.mimco.check_teacher(teacher, student)
    }

    fn feature(&self) -> FeatureKind {
        match self.mimco.pooling {
            Pooling::Class => FeatureKind::Class,
            Pooling::Mean => FeatureKind::Mean,
        }
    }

    fn views(&self, crop_scale: (f32, f32), flip: f32) -> ViewSpec {
        let operations = vec![RandomOperation::Flip { probability: flip }];
        ViewSpec::Random(vec![RandomView { crop_scale, filter: Filter::Bicubic, operations }])
    }
}
