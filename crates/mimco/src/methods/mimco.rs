//! MimCo (Zhou et al. 2022): a student sees the masked image and reconstructs a frozen contrastive
//! teacher's features of the whole image, patch by patch and as an image, by contrastive losses.
//!
//! The paper's abstract gives the two stages, the pre-trained contrastive teacher and the two
//! losses. What it leaves open is a setting ([`MimcoSettings`]).

use super::mask::{MaskGenerator, PatchMask};
use super::method::{BuildContext, Figures, Method, ReadState, StateArray, StepInfo, copy_named};
use super::queue::Queue;
use super::sampling::choose;
use super::settings::mimco::{
    HeadKind, ImageLoss, MimcoSettings, MimcoSpec, PatchCandidates, PatchLoss, Pooling, StudentInit, TeacherNorm,
};
use crate::Error;
use crate::models::backbone::Backbone;
use crate::models::heads::LightHead;
use crate::models::initialize::truncated_normal;
use crate::models::tokens::{TokenRows, Tokens};
use crate::models::vit::{DropPathOptions, ForwardOptions, Initialization, NORM_EPS, Vit};
use mimco_data::loader::Batch;
use mimco_data::random::{Purpose, keyed};
use mimco_engine::ops::{Candidates, Contrast, Masked, layer_norm_plain};
use mimco_engine::{ParameterId, Parameters, Tape, Tensor, Var};

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
    queue: Queue,
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
        truncated_normal(parameters.get_mut(mask_token), 0.02, &mut keyed(seed, Purpose::Init, 3, 0));
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
            queue: Queue::new(capacity, teacher_width),
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
        gradients: &mut [f32],
    ) -> Figures {
        let targets = self.do_teacher(images);
        let mut tape = Tape::recording(&self.parameters);
        let tokens = self.do_student(&mut tape, images, mask, info);

        let (mut figures, mut losses, mut image_target) = (Figures::new(), Vec::new(), None);
        if self.settings.patch_loss != PatchLoss::Off {
            let (loss, accuracy) = self.patch_loss(&mut tape, &tokens, &targets, mask, info);
            let factor = if self.settings.patch_loss == PatchLoss::L1 { 1.0 } else { self.factor(self.settings.patch_temperature) };
            figures.insert("train/loss_patch", (loss.value.item() * factor) as f64);
            figures.extend(accuracy.map(|accuracy| ("train/acc_patch", 100.0 * accuracy as f64)));
            losses.push((loss, factor * self.settings.patch_weight));
        }
        if self.settings.image_loss != ImageLoss::Off {
            let target = self.image_feature(&mut Tape::inference(&self.teacher.parameters), &targets).value; // [batch, teacher's width]
            let prediction = self.image_feature(&mut tape, &tokens);
            let prediction = self.image_head.forward(&mut tape, &prediction); // [batch, teacher's width]
            let (loss, accuracy) = self.image_loss(&mut tape, &prediction, &target, sample_ids);
            let factor = self.factor(self.settings.image_temperature);
            // Without negatives, as with an empty queue, neither figure has a meaning.
            if self.settings.image_loss != ImageLoss::Queue || !self.queue.is_empty() {
                figures.insert("train/loss_image", (loss.value.item() * factor) as f64);
                figures.insert("train/acc_image", 100.0 * accuracy as f64);
            }
            figures.insert("health/teacher_alignment", mean_cosine(&prediction.value, &target));
            losses.push((loss, factor * self.settings.image_weight));
            image_target = Some(target);
        }
        let loss = tape.weighted_sum(&losses);
        tape.backward(&loss, Tensor::scalar(loss_scale), gradients, None);
        figures.insert("train/loss", loss.value.item() as f64);
        self.pending.extend(image_target.map(|target| (target, sample_ids.to_vec())));
        figures
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
        let masked = Some(Masked { token: self.mask_token, places: mask.masked.clone() });
        let drop_path = (self.drop_path > 0.0).then_some(DropPathOptions { rate: self.drop_path, seed: info.seed, draw: info.draw });
        self.student.forward(tape, images, &ForwardOptions { rows, masked, drop_path, ..self.options.clone() })
    }

    /// Compares each predicted patch with the teacher's patches: of its image, of the batch, or by L1.
    /// Returns the loss and the share of patches whose positive wins.
    fn patch_loss(&self, tape: &mut Tape<'_>, tokens: &Tokens, targets: &Tokens, mask: &PatchMask, info: StepInfo) -> (Var, Option<f32>) {
        let prediction = tokens.patches(tape, &mask.predicted);
        let prediction = self.patch_head.forward(tape, &prediction); // [predicted, teacher's width]
        let constants = &mut Tape::inference(&self.teacher.parameters);
        let positives = targets.patches(constants, &mask.predicted).value; // [predicted, teacher's width]
        let (batch, predicted, width) = (tokens.images(), positives.rows(), positives.width());
        let per_image = predicted / batch;
        let temperature = self.settings.patch_temperature;
        let contrast = |tape: &mut Tape<'_>, keys: &Tensor, candidates, owners| {
            let (loss, accuracy) = tape.info_nce(&prediction, &Contrast { keys, candidates, owners, temperature });
            (loss, Some(accuracy))
        };
        match (self.settings.patch_loss, self.settings.patch_candidates) {
            (PatchLoss::L1 | PatchLoss::Off, _) => (tape.l1(&prediction, &positives), None),
            (PatchLoss::ImageNegatives, PatchCandidates::Masked) => {
                let positive: Vec<u32> = (0..predicted).map(|i| (i % per_image.max(1)) as u32).collect();
                contrast(tape, &positives.reshape([batch, per_image, width]), Candidates::Among(&positive), None)
            }
            (PatchLoss::ImageNegatives, PatchCandidates::All) => {
                let patches = tokens.patches_per_image();
                let keys = targets.all_patches(constants).value.reshape([batch, patches, width]);
                let positive: Vec<u32> = mask.predicted_patches().map(|patch| (patch % patches) as u32).collect();
                contrast(tape, &keys, Candidates::Among(&positive), None)
            }
            (PatchLoss::BatchNegatives, _) => {
                let mut rng = keyed(info.seed, Purpose::Candidates, info.epoch, info.draw);
                let drawn = choose(predicted, self.settings.batch_candidates, &mut rng);
                let keys = constants.select_rows(&Var::constant(positives.clone()), &drawn.clone().into()).value;
                // Ids exclude a row's own target from its negatives, whether drawn or not.
                let row_ids: Vec<u64> = (0..predicted as u64).collect();
                let key_ids: Vec<u64> = drawn.iter().map(|&i| i as u64).collect();
                let keys = keys.reshape([1, drawn.len(), width]);
                contrast(tape, &keys, Candidates::Beside(&positives), Some((&row_ids[..], &key_ids[..])))
            }
        }
    }

    /// Compares each prediction with the teacher's image features: of the batch, or of the queue.
    /// Returns the loss and the share of images whose positive wins. [batch, teacher's width] both
    fn image_loss(&self, tape: &mut Tape<'_>, prediction: &Var, target: &Tensor, sample_ids: &[u32]) -> (Var, f32) {
        let temperature = self.settings.image_temperature;
        if self.settings.image_loss == ImageLoss::Queue {
            let ids: Vec<u64> = sample_ids.iter().map(|&id| id as u64).collect();
            let owners = Some((&ids[..], self.queue.owners()));
            tape.info_nce(prediction, &Contrast { keys: &self.queue.keys(), candidates: Candidates::Beside(target), owners, temperature })
        } else {
            let positive: Vec<u32> = (0..target.rows() as u32).collect();
            let keys = &target.reshape([1, target.rows(), target.width()]);
            tape.info_nce(prediction, &Contrast { keys, candidates: Candidates::Among(&positive), owners: None, temperature })
        }
    }

    /// Pools tokens to one feature an image: [batch, width].
    fn image_feature(&self, tape: &mut Tape<'_>, tokens: &Tokens) -> Var {
        match self.settings.pooling {
            Pooling::Class => tokens.class(tape),
            Pooling::Mean => tokens.mean(tape),
        }
    }

    /// Returns MoCo v3's loss factor 2τ, which keeps gradients alike across temperatures.
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

    fn step(&mut self, batch: &Batch, info: StepInfo, loss_scale: f32, gradients: &mut [f32]) -> Figures {
        let size = self.student.config.image;
        let images = Tensor::from_slice([batch.indices.len(), 3, size, size], &batch.views[0]);
        let mask = self.mask.batch(info.seed, info.epoch, &batch.indices);
        self.losses(&images, &mask, &batch.indices, info, loss_scale, gradients)
    }

    fn after_update(&mut self, _info: StepInfo) {
        for (features, sample_ids) in std::mem::take(&mut self.pending) {
            self.queue.push(features.data(), &sample_ids);
        }
    }

    fn discard_step(&mut self) {
        self.pending.clear();
    }

    fn state(&self) -> Vec<StateArray> {
        self.queue.state()
    }

    fn restore(&mut self, read: ReadState<'_>) -> Result<(), Error> {
        self.queue.restore(read)
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

fn mean_cosine(a: &Tensor, b: &Tensor) -> f64 {
    let width = a.width();
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x * y) as f64).sum::<f64>();
    let pairs = a.data().chunks_exact(width).zip(b.data().chunks_exact(width));
    let sum: f64 = pairs.map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-12)).sum();
    sum / a.rows().max(1) as f64
}
