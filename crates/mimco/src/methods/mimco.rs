//! MimCo (Zhou et al. 2022). A student sees the masked image. Its contrastive losses ask for a frozen
//! contrastive teacher's features of the whole image, patch by patch and as an image.
//!
//! The paper's abstract gives the two stages, the pre-trained contrastive teacher and the two
//! losses. What it leaves open is a setting ([`MimcoSettings`]).

use super::mask::{MaskGenerator, PatchMask};
use super::method::{BuildContext, Method, ReadState, StateArray, StepInfo, copy_named};
use super::queue_state;
use super::sampling::choose;
use super::settings::mimco::{
    HeadKind, ImageLoss, MimcoSettings, MimcoSpec, PatchCandidates, PatchLoss, Pooling, StudentInit, TeacherNorm,
};
use super::step_metrics::StepMetrics;
use crate::Error;
use crate::models::backbone::Backbone;
use crate::models::heads::LightHead;
use crate::models::initialize::truncated_normal;
use crate::models::tokens::{TokenRows, Tokens};
use crate::models::vit::{DropPathOptions, ForwardOptions, Initialization, NORM_EPS, Vit};
use mimco_data::loader::Batch;
use mimco_data::random::{Purpose, keyed};
use mimco_engine::ops::{ContrastiveTargets, FeatureQueue, Masked, Positive, layer_norm_plain};
use mimco_engine::{Gradients, ParameterId, Parameters, Tape, Tensor, Var};

/// A MimCo training.
pub struct Mimco {
    settings: MimcoSettings,
    options: ForwardOptions,
    drop_path: f32,
    teacher: Backbone,
    student: Vit,
    mask_token: ParameterId,
    patch_head: LightHead,
    image_head: LightHead,
    /// Student, mask token and heads.
    parameters: Parameters,
    mask: MaskGenerator,
    queue: FeatureQueue,
    /// Image targets of the step and their samples, which enter the queue after the update.
    pending: Vec<(Tensor, Vec<u32>)>,
}

impl Mimco {
    /// Builds a training at its first step. The queue holds at most half the training images.
    ///
    /// # Errors
    /// A teacher that is missing or does not fit the student.
    pub fn new(spec: &MimcoSpec, context: BuildContext) -> Result<Mimco, Error> {
        let BuildContext { model, seed, precision, .. } = context;
        let settings = spec.mimco.clone();
        let mut teacher =
            context.teacher.ok_or_else(|| Error::Setting("mimco needs a teacher; give --teacher FILE, or let the run train one".into()))?;
        settings.check_teacher(&teacher.vit.config, &model)?;

        let mut parameters = Parameters::new();
        let student = Vit::declare(&model, &mut parameters, "");
        let mask_token = parameters.add("mask_token", &[1, 1, model.width]);
        parameters.entry_mut(mask_token).decay = 0.0;
        let (width, teacher_width) = (model.width, teacher.vit.config.width);
        let widths = match settings.head {
            HeadKind::Linear => vec![width, teacher_width],
            HeadKind::Mlp => vec![width, width.max(teacher_width), teacher_width],
        };
        let patch_head = LightHead::declare(&mut parameters, "patch_head", &widths);
        let image_head = LightHead::declare(&mut parameters, "image_head", &widths);

        student.initialize(&mut parameters, Initialization::Normal, seed);
        let rng = &mut keyed(seed, Purpose::Init, 3, 0);
        parameters.update_on_host(mask_token, |token| truncated_normal(token, 0.02, rng));
        patch_head.initialize(&mut parameters, seed, 0);
        image_head.initialize(&mut parameters, seed, 1);
        if settings.student_init == StudentInit::Teacher {
            copy_named(&teacher.parameters, &mut parameters, "");
        }
        parameters.set_precision(precision);
        teacher.parameters.set_precision(precision);

        let capacity = if settings.image_loss == ImageLoss::Queue { settings.queue_size.min(context.images / 2) } else { 0 };
        Ok(Mimco {
            mask: spec.mask.generator(&model),
            options: ForwardOptions { recompute: context.recompute, ..ForwardOptions::default() },
            drop_path: context.drop_path,
            queue: FeatureQueue::new(capacity, teacher_width),
            pending: Vec::new(),
            settings,
            teacher,
            student,
            mask_token,
            patch_head,
            image_head,
            parameters,
        })
    }

    /// Computes the losses of crops [batch, 3, size, size] with values in 0..1, whose samples are
    /// `sample_ids` `[batch]`, and adds `loss_scale` times their gradient to `gradients`:
    ///
    /// loss = patch_weight · loss_patch + image_weight · loss_image
    pub fn losses(
        &mut self,
        images: &Tensor,
        mask: &PatchMask,
        sample_ids: &[u32],
        info: StepInfo,
        loss_scale: f32,
        gradients: &mut Gradients,
    ) -> StepMetrics {
        let targets = self.do_teacher(images);
        let mut tape = Tape::recording(&self.parameters);
        let tokens = self.do_student(&mut tape, images, mask, info);

        let (mut metrics, mut losses, mut image_target) = (StepMetrics::default(), Vec::new(), None);
        if self.settings.patch_loss != PatchLoss::Off {
            let (loss, wins) = self.patch_loss(&mut tape, &tokens, &targets, mask, info);
            let factor = if self.settings.patch_loss == PatchLoss::L1 { 1.0 } else { self.factor(self.settings.patch_temperature) };
            metrics.add("train/loss_patch", loss.value.scale(factor), 1.0);
            if let Some(wins) = wins {
                metrics.add("train/acc_patch", wins, 100.0);
            }
            losses.push((loss, factor * self.settings.patch_weight));
        }
        if self.settings.image_loss != ImageLoss::Off {
            let target = self.image_feature(&mut Tape::inference(&self.teacher.parameters), &targets).value; // [batch, teacher's width]
            let prediction = self.image_feature(&mut tape, &tokens);
            let prediction = self.image_head.forward(&mut tape, &prediction); // [batch, teacher's width]
            let (loss, wins) = self.image_loss(&mut tape, &prediction, &target, sample_ids);
            let factor = self.factor(self.settings.image_temperature);
            // Without negatives, as with an empty queue, neither figure has a meaning.
            if self.settings.image_loss != ImageLoss::Queue || !self.queue.is_empty() {
                metrics.add("train/loss_image", loss.value.scale(factor), 1.0);
                metrics.add("train/acc_image", wins, 100.0);
            }
            metrics.add_scalar("health/teacher_alignment", prediction.value.mean_cosine(&target));
            losses.push((loss, factor * self.settings.image_weight));
            image_target = Some(target);
        }
        let loss = tape.weighted_sum(&losses);
        metrics.add_loss(loss.value.clone());
        tape.backward(&loss, Tensor::scalar(loss_scale), gradients, None);
        self.pending.extend(image_target.map(|target| (target, sample_ids.to_vec())));
        metrics
    }

    /// Computes the frozen teacher's tokens of the whole images; no gradient.
    fn do_teacher(&self, images: &Tensor) -> Tokens {
        let options = ForwardOptions { blocks: self.settings.teacher_layer.value(), ..ForwardOptions::default() };
        let tokens = self.teacher.vit.forward(&mut Tape::inference(&self.teacher.parameters), images, &options);
        match self.settings.teacher_norm {
            TeacherNorm::None => tokens,
            TeacherNorm::Layer => Tokens { x: Var::constant(layer_norm_plain(&tokens.x.value, NORM_EPS)), ..tokens },
        }
    }

    /// Computes the student's tokens of the masked images: those that the losses read.
    fn do_student(&self, tape: &mut Tape<'_>, images: &Tensor, mask: &PatchMask, info: StepInfo) -> Tokens {
        let rows = match self.settings.pooling {
            Pooling::Class => TokenRows::ClassAnd(mask.predicted.clone()),
            Pooling::Mean => TokenRows::All,
        };
        let masked = Some(Masked { token: self.mask_token, masked: mask.masked.clone() });
        let drop_path = (self.drop_path > 0.0).then_some(DropPathOptions { rate: self.drop_path, seed: info.seed, draw: info.draw });
        self.student.forward(tape, images, &ForwardOptions { rows, masked, drop_path, ..self.options.clone() })
    }

    /// Compares each predicted patch with the teacher's patches: of its image, of the batch, or by L1.
    /// Returns the loss and the share of patches whose positive wins.
    fn patch_loss(
        &self,
        tape: &mut Tape<'_>,
        tokens: &Tokens,
        targets: &Tokens,
        mask: &PatchMask,
        info: StepInfo,
    ) -> (Var, Option<Tensor>) {
        let prediction = tokens.patches(tape, &mask.predicted);
        let prediction = self.patch_head.forward(tape, &prediction); // [predicted, teacher's width]
        let constants = &mut Tape::inference(&self.teacher.parameters);
        let positives = targets.patches(constants, &mask.predicted).value; // [predicted, teacher's width]
        let (batch, predicted, width) = (tokens.images(), positives.rows(), positives.width());
        let per_image = predicted / batch;
        let temperature = self.settings.patch_temperature;
        let contrast = |tape: &mut Tape<'_>, keys: &Tensor, positive, sample_ids| {
            let (loss, wins) = tape.info_nce(&prediction, &ContrastiveTargets { keys, positive, sample_ids, temperature });
            (loss, Some(wins))
        };
        match (self.settings.patch_loss, self.settings.patch_candidates) {
            (PatchLoss::L1 | PatchLoss::Off, _) => (tape.l1(&prediction, &positives), None),
            (PatchLoss::ImageNegatives, PatchCandidates::Masked) => {
                let positive: Vec<u32> = (0..predicted).map(|i| (i % per_image.max(1)) as u32).collect();
                contrast(tape, &positives.reshape([batch, per_image, width]), Positive::InKeys(&positive), None)
            }
            (PatchLoss::ImageNegatives, PatchCandidates::All) => {
                let patches = tokens.patches_per_image();
                let keys = targets.all_patches(constants).value.reshape([batch, patches, width]);
                let positive: Vec<u32> = mask.predicted_patches().map(|patch| (patch % patches) as u32).collect();
                contrast(tape, &keys, Positive::InKeys(&positive), None)
            }
            (PatchLoss::BatchNegatives, _) => {
                let mut rng = keyed(info.seed, Purpose::Candidates, info.epoch, info.draw);
                let drawn = choose(predicted, self.settings.batch_candidates, &mut rng);
                let keys = positives.select_rows(&drawn);
                // Ids exclude a row's own target from its negatives, whether drawn or not.
                let row_ids: Vec<u64> = (0..predicted as u64).collect();
                let key_ids: Vec<u64> = drawn.iter().map(|&i| i as u64).collect();
                let keys = keys.reshape([1, drawn.len(), width]);
                contrast(tape, &keys, Positive::Separate(&positives), Some((&row_ids[..], &key_ids[..])))
            }
        }
    }

    /// Compares each prediction with the teacher's image features: of the batch, or of the queue.
    /// Returns the loss and the share of images whose positive wins. [batch, teacher's width] both
    fn image_loss(&self, tape: &mut Tape<'_>, prediction: &Var, target: &Tensor, sample_ids: &[u32]) -> (Var, Tensor) {
        let temperature = self.settings.image_temperature;
        if self.settings.image_loss == ImageLoss::Queue {
            let ids: Vec<u64> = sample_ids.iter().map(|&id| id as u64).collect();
            let (positive, sample_ids) = (Positive::Separate(target), Some((&ids[..], self.queue.sample_ids())));
            tape.info_nce(prediction, &ContrastiveTargets { keys: &self.queue.keys(), positive, sample_ids, temperature })
        } else {
            let positive: Vec<u32> = (0..target.rows() as u32).collect();
            let keys = &target.reshape([1, target.rows(), target.width()]);
            tape.info_nce(prediction, &ContrastiveTargets { keys, positive: Positive::InKeys(&positive), sample_ids: None, temperature })
        }
    }

    /// Pools tokens to one feature an image: [batch, width].
    fn image_feature(&self, tape: &mut Tape<'_>, tokens: &Tokens) -> Var {
        match self.settings.pooling {
            Pooling::Class => tokens.class(tape),
            Pooling::Mean => tokens.mean(tape),
        }
    }

    /// Returns MoCo v3's loss factor 2τ, which keeps the gradient's scale the same for all temperatures.
    fn factor(&self, temperature: f32) -> f32 {
        if self.settings.scale_by_temperature { 2.0 * temperature } else { 1.0 }
    }

    /// Returns the frozen teacher.
    pub fn teacher(&self) -> &Backbone {
        &self.teacher
    }
}

impl Method for Mimco {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn step(&mut self, batch: &Batch, info: StepInfo, loss_scale: f32, gradients: &mut Gradients) -> StepMetrics {
        let size = self.student.config.image;
        let images = Tensor::from_slice([batch.indices.len(), 3, size, size], &batch.views[0]);
        let mask = self.mask.batch(info.seed, info.epoch, &batch.indices);
        self.losses(&images, &mask, &batch.indices, info, loss_scale, gradients)
    }

    fn after_update(&mut self, _info: StepInfo, finite: &Tensor) {
        for (features, sample_ids) in std::mem::take(&mut self.pending) {
            self.queue.push(&features, &sample_ids, finite);
        }
    }

    fn state(&self) -> Vec<StateArray> {
        queue_state::arrays(&self.queue)
    }

    fn restore(&mut self, read: ReadState<'_>) -> Result<(), Error> {
        queue_state::restore(&mut self.queue, read)
    }

    /// Counts the student's forward pass three times (its backward pass costs two, without the
    /// pixels' gradient) and the teacher's once. Masked patches are not embedded.
    fn flop_per_image(&self) -> f64 {
        let (student, teacher) = (&self.student.config, &self.teacher.vit.config);
        let read = if self.settings.pooling == Pooling::Mean { student.tokens() } else { self.mask.masked() + 1 };
        let masked = self.mask.masked() as f64 / student.patches() as f64;
        3.0 * student.forward_flop(read) - (1.0 + 2.0 * masked) * student.embedding_flop() + teacher.forward_flop(teacher.tokens())
    }

    fn load_backbone(&mut self, weights: &Parameters) {
        copy_named(weights, &mut self.parameters, "");
    }

    fn backbone(&self) -> (&Vit, &Parameters) {
        (&self.student, &self.parameters)
    }
}
