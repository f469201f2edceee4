//! MimCo (Zhou et al. 2022): a student that sees the masked image reconstructs a frozen contrastive teacher's features of the whole
//! one, patch by patch and as a whole image, both by contrastive losses.
//!
//! The paper's abstract fixes the two stages, the pre-trained contrastive teacher and the two losses; what it leaves open are settings here.

use super::mask::MaskGenerator;
use super::queue::Queue;
use super::{Clock, Figures, Find, Method, StateArray, copy_named};
use crate::Error;
use crate::models::backbone::Backbone;
use crate::models::heads::LightHead;
use crate::models::vit::{Forward, Start, Vit, VitConfig};
use crate::settings::{Config, HeadKind, ImageLoss, Mimco as Settings, PatchCandidates, PatchLoss, Pooling, StudentInit, TeacherNorm};
use mimco_data::augment::MimAugment;
use mimco_data::loader::Batch;
use mimco_data::pipeline::Pipeline;
use mimco_data::random::{Purpose, below, keyed};
use mimco_engine::ops::{Candidates, Contrast, Masked, layer_norm_plain};
use mimco_engine::{ParameterId, Parameters, Tape, Tensor, Var};
use std::sync::Arc;

/// A MimCo training.
pub struct Mimco {
    settings: Settings,
    augment: MimAugment,
    forward: Forward,
    drop_path: f32,
    teacher: Backbone,
    student: Vit,
    mask_token: ParameterId,
    patch_head: LightHead,
    image_head: LightHead,
    parameters: Parameters,
    mask: MaskGenerator,
    queue: Queue,
    /// The step's image targets and their owners, for the queue once the step is done.
    pending: Vec<(Tensor, Vec<u32>)>,
}

/// Which patches of a batch, `[batch · patches]`, images in order and patches in order.
#[derive(Clone)]
pub struct Places {
    /// Those that the student does not see.
    pub hidden: Arc<[bool]>,
    /// Those whose features it is asked for.
    pub asked: Arc<[bool]>,
}

impl Places {
    /// Hidden and asked for, as in training.
    pub fn masked(places: Arc<[bool]>) -> Places {
        Places { hidden: places.clone(), asked: places }
    }
}

/// The tokens that the losses read.
struct Reads {
    /// Rows that the student works out; all where there are none.
    rows: Option<Arc<[usize]>>,
    /// Where the class tokens are among them, `[batch]`.
    class: Arc<[usize]>,
    /// Where the patches asked for are among them, [batch · asked].
    asked: Arc<[usize]>,
    /// Rows of the patches asked for among all tokens, the teacher's.
    targets: Arc<[usize]>,
    /// Patches asked for, counted without class tokens.
    places: Vec<usize>,
}

impl Mimco {
    /// A training of a student of these sizes at its beginning; `images` is the size of the training set, of which the queue holds at most half.
    ///
    /// # Errors
    /// Where the teacher's token grid is not the student's, or a student that is to begin as the teacher has another shape.
    pub fn new(
        config: &Config,
        vit: &VitConfig,
        settings: &Settings,
        mask: MaskGenerator,
        mut teacher: Backbone,
        images: usize,
    ) -> Result<Mimco, Error> {
        let theirs = teacher.vit.config.clone();
        check_teacher(settings, &theirs, vit)?;
        let mut parameters = Parameters::new();
        let student = Vit::declare(vit, &mut parameters, "");
        let mask_token = parameters.add("mask_token", &[1, 1, vit.width]);
        parameters.entry_mut(mask_token).decay = 0.0;
        let widths = match settings.head {
            HeadKind::Linear => vec![vit.width, theirs.width],
            HeadKind::Mlp => vec![vit.width, vit.width.max(theirs.width), theirs.width],
        };
        let patch_head = LightHead::declare(&mut parameters, "patch_head", &widths);
        let image_head = LightHead::declare(&mut parameters, "image_head", &widths);
        student.initialise(&mut parameters, Start::Normal, config.seed);
        crate::models::initialise::truncated_normal(parameters.get_mut(mask_token), 0.02, &mut keyed(config.seed, Purpose::Init, 3, 0));
        patch_head.initialise(&mut parameters, config.seed, 0);
        image_head.initialise(&mut parameters, config.seed, 1);
        if settings.student_init == StudentInit::Teacher {
            copy_named(&teacher.parameters, &mut parameters, "");
        }
        parameters.set_precision(config.precision.engine());
        teacher.parameters.set_precision(config.precision.engine());
        let capacity = if settings.image_loss == ImageLoss::Queue { settings.queue_size.min(images / 2) } else { 0 };
        let queue = Queue::new(capacity, theirs.width);
        Ok(Mimco {
            settings: settings.clone(),
            augment: config.mim_augment(),
            forward: Forward { recompute: config.train.recompute, ..Forward::default() },
            drop_path: config.model.drop_path,
            teacher,
            student,
            mask_token,
            patch_head,
            image_head,
            parameters,
            mask,
            queue,
            pending: Vec::new(),
        })
    }

    /// The loss of a batch of crops [batch, 3, size, size] in 0..1. `places` [batch · patches] are hidden from the student and asked of it, as
    /// many of each image. The gradient is added to
    /// `gradients` times `share`. `owners` `[batch]` are the images' numbers in the set.
    pub fn losses(&mut self, images: &Tensor, places: &Places, owners: &[u32], clock: Clock, share: f32, gradients: &mut [f32]) -> Figures {
        let targets = self.teacher_features(images);
        let mut tape = Tape::recording(&self.parameters);
        let reads = self.reads(&places.asked, owners.len());
        let how = Forward {
            rows: reads.rows.clone(),
            masked: Some(Masked { token: self.mask_token, places: places.hidden.clone() }),
            drop_path: (self.drop_path > 0.0).then_some((self.drop_path, clock.seed, clock.draw)),
            ..self.forward.clone()
        };
        let tokens = self.student.forward(&mut tape, images, &how); // [batch · tokens, width]

        let mut figures = Figures::new();
        let mut losses: Vec<(Var, f32)> = Vec::new();
        let mut image_target = None;
        if self.settings.patch_loss != PatchLoss::Off {
            let (loss, wins) = self.patch_loss(&mut tape, &tokens, &targets, &reads, clock);
            let factor = if self.settings.patch_loss == PatchLoss::L1 { 1.0 } else { self.factor(self.settings.patch_temperature) };
            figures.insert("train/loss_patch", (loss.value.item() * factor) as f64);
            figures.extend(wins.map(|wins| ("train/acc_patch", 100.0 * wins as f64)));
            losses.push((loss, factor * self.settings.patch_weight));
        }
        if self.settings.image_loss != ImageLoss::Off {
            let (loss, wins, alignment, target) = self.image_loss(&mut tape, &tokens, &targets, &reads, owners);
            image_target = Some(target);
            let factor = self.factor(self.settings.image_temperature);
            // Among no negatives, as a queue begins, neither tells anything.
            if self.settings.image_loss != ImageLoss::Queue || !self.queue.is_empty() {
                figures.insert("train/loss_image", (loss.value.item() * factor) as f64);
                figures.insert("train/acc_image", 100.0 * wins as f64);
            }
            figures.insert("health/teacher_alignment", alignment);
            losses.push((loss, factor * self.settings.image_weight));
        }
        let loss = tape.weighted_sum(&losses);
        tape.backward(&loss, Tensor::scalar(share), gradients, None);
        figures.insert("train/loss", loss.value.item() as f64);
        self.pending.extend(image_target.map(|target| (target, owners.to_vec())));
        figures
    }

    /// The teacher's tokens of the whole crop, [batch · tokens, width]: inference, nothing kept.
    fn teacher_features(&self, images: &Tensor) -> Tensor {
        let how = Forward { blocks: self.settings.teacher_layer.set(), ..Forward::default() };
        let features = self.teacher.vit.forward(&mut Tape::inference(&self.teacher.parameters), images, &how).value;
        match self.settings.teacher_norm {
            TeacherNorm::None => features,
            TeacherNorm::Layer => layer_norm_plain(&features, crate::models::vit::NORM_EPS),
        }
    }

    /// Which tokens the losses read: all where images are means of them, else the class token of each image and the patches asked for.
    fn reads(&self, asked: &[bool], batch: usize) -> Reads {
        let patches = self.student.config.patches();
        let places: Vec<usize> = (0..asked.len()).filter(|&place| asked[place]).collect();
        let rows_in =
            |vit: &VitConfig| places.iter().map(|&place| place / patches * vit.tokens() + vit.prefix() + place % patches).collect();
        let (asked, targets): (Arc<[usize]>, _) = (rows_in(&self.student.config), rows_in(&self.teacher.vit.config));
        let class = self.student.class_rows(batch);
        if self.settings.pooling == Pooling::Mean {
            return Reads { rows: None, class, asked, targets, places };
        }
        let mut rows: Vec<usize> = class.iter().chain(&asked[..]).copied().collect();
        rows.sort_unstable();
        let found = |wanted: &[usize]| wanted.iter().map(|&row| rows.partition_point(|&r| r < row)).collect();
        let (class, asked) = (found(&class), found(&asked));
        Reads { rows: Some(rows.into()), class, asked, targets, places }
    }

    /// Each patch that is asked for against the teacher's patches: of its image, of the batch, or by L1.
    fn patch_loss(&self, tape: &mut Tape<'_>, tokens: &Var, targets: &Tensor, reads: &Reads, clock: Clock) -> (Var, Option<f32>) {
        let patches = self.student.config.patches();
        let (places, rows) = (&reads.places, &reads.targets);
        let batch = reads.class.len();
        let prediction = tape.select_rows(tokens, &reads.asked);
        let prediction = self.patch_head.forward(tape, &prediction); // [batch · asked, teacher's width]
        let width = targets.width();
        let own = gather(targets, rows); // [batch · asked, teacher's width]
        let temperature = self.settings.patch_temperature;
        let count = places.len() / batch;
        match (self.settings.patch_loss, self.settings.patch_candidates) {
            (PatchLoss::L1 | PatchLoss::Off, _) => (tape.l1(&prediction, &own), None),
            (PatchLoss::ImageNegatives, PatchCandidates::Masked) => {
                let target: Vec<u32> = (0..places.len()).map(|i| (i % count.max(1)) as u32).collect();
                let keys = &own.reshape([batch, count, width]);
                let contrast = Contrast { keys, candidates: Candidates::Among(&target), owners: None, temperature };
                let (loss, wins) = tape.info_nce(&prediction, &contrast);
                (loss, Some(wins))
            }
            (PatchLoss::ImageNegatives, PatchCandidates::All) => {
                let theirs = &self.teacher.vit.config;
                let all: Arc<[usize]> = (0..batch * theirs.tokens()).filter(|row| row % theirs.tokens() >= theirs.prefix()).collect();
                let target: Vec<u32> = places.iter().map(|&place| (place % patches) as u32).collect();
                let keys = &gather(targets, &all).reshape([batch, patches, width]);
                let contrast = Contrast { keys, candidates: Candidates::Among(&target), owners: None, temperature };
                let (loss, wins) = tape.info_nce(&prediction, &contrast);
                (loss, Some(wins))
            }
            (PatchLoss::BatchNegatives, _) => {
                let drawn = draw(places.len(), self.settings.batch_candidates, clock);
                let drawn_rows: Arc<[usize]> = drawn.iter().map(|&i| rows[i]).collect();
                let keys = &gather(targets, &drawn_rows).reshape([1, drawn.len(), width]);
                // A row's own target counts once, drawn or not.
                let (row_owners, key_owners): (Vec<u64>, Vec<u64>) =
                    ((0..places.len() as u64).collect(), drawn.iter().map(|&i| i as u64).collect());
                let owners = Some((&row_owners[..], &key_owners[..]));
                let contrast = Contrast { keys, candidates: Candidates::Beside(&own), owners, temperature };
                let (loss, wins) = tape.info_nce(&prediction, &contrast);
                (loss, Some(wins))
            }
        }
    }

    /// The whole masked image against the teacher's whole images: of the batch, or of a queue.
    fn image_loss(&self, tape: &mut Tape<'_>, tokens: &Var, targets: &Tensor, reads: &Reads, owners: &[u32]) -> (Var, f32, f64, Tensor) {
        let batch = owners.len();
        let (student, teacher) = (&self.student, &self.teacher.vit);
        let (pooled, target) = match self.settings.pooling {
            Pooling::Class => (tape.select_rows(tokens, &reads.class), gather(targets, &teacher.class_rows(batch))),
            Pooling::Mean => {
                let mean = |tape: &mut Tape<'_>, vit: &Vit, x: &Var| tape.mean_tokens(x, &vit.offsets(batch), vit.config.prefix());
                let target = mean(&mut Tape::inference(&self.teacher.parameters), teacher, &Var::constant(targets.clone()));
                (mean(tape, student, tokens), target.value)
            }
        };
        let prediction = self.image_head.forward(tape, &pooled); // [batch, teacher's width]
        let temperature = self.settings.image_temperature;
        let alignment = mean_cosine(&prediction.value, &target);
        let (loss, wins) = if self.settings.image_loss == ImageLoss::Queue {
            let keys = self.queue.keys();
            let owners_wide: Vec<u64> = owners.iter().map(|&i| i as u64).collect();
            let owners = Some((&owners_wide[..], self.queue.owners()));
            let contrast = Contrast { keys: &keys, candidates: Candidates::Beside(&target), owners, temperature };
            tape.info_nce(&prediction, &contrast)
        } else {
            let places: Vec<u32> = (0..batch as u32).collect();
            let keys = &target.reshape([1, batch, target.width()]);
            let contrast = Contrast { keys, candidates: Candidates::Among(&places), owners: None, temperature };
            tape.info_nce(&prediction, &contrast)
        };
        (loss, wins, alignment, target)
    }

    /// MoCo v3's factor 2τ, which makes gradients alike across temperatures.
    fn factor(&self, temperature: f32) -> f32 {
        if self.settings.scale_by_temperature { 2.0 * temperature } else { 1.0 }
    }

    /// The frozen teacher.
    pub fn teacher(&self) -> &Backbone {
        &self.teacher
    }
}

impl Method for Mimco {
    fn pipeline(&self) -> Pipeline {
        Pipeline::Mim(self.augment.clone())
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn step(&mut self, batch: &Batch, clock: Clock, share: f32, gradients: &mut [f32]) -> Figures {
        let size = self.student.config.image;
        let images = Tensor::from_slice([batch.indices.len(), 3, size, size], &batch.views[0]);
        let masks = batch.indices.iter().flat_map(|&index| self.mask.draw(clock.seed, clock.epoch, index as u64));
        self.losses(&images, &Places::masked(masks.collect()), &batch.indices, clock, share, gradients)
    }

    fn updated(&mut self, _clock: Clock) {
        for (features, owners) in std::mem::take(&mut self.pending) {
            self.queue.push(features.data(), &owners);
        }
    }

    fn skip(&mut self) {
        self.pending.clear();
    }

    fn state(&self) -> Vec<StateArray> {
        self.queue.state()
    }

    fn restore(&mut self, find: Find<'_>) -> Result<(), Error> {
        self.queue.restore(find)
    }

    /// The student's forward and backward (twice a forward, but no pixels' gradient), the teacher's forward.
    fn flop_per_image(&self) -> f64 {
        let (student, teacher) = (&self.student.config, &self.teacher.vit.config);
        let read = if self.settings.pooling == Pooling::Mean { student.tokens() } else { self.mask.hidden() + 1 };
        // Hidden patches are not embedded; seen ones forward and for the weights, not for the pixels.
        let hidden = self.mask.hidden() as f64 / student.patches() as f64;
        3.0 * student.forward_flop(read) - (1.0 + 2.0 * hidden) * student.embedding_flop() + teacher.forward_flop(teacher.tokens())
    }

    fn load_backbone(&mut self, weights: &Parameters) {
        copy_named(weights, &mut self.parameters, "");
    }

    fn backbone(&self) -> (&Vit, &Parameters) {
        (&self.student, &self.parameters)
    }
}

/// Rows `rows` of x.
fn gather(x: &Tensor, rows: &Arc<[usize]>) -> Tensor {
    let width = x.width();
    let mut y = Tensor::stale([rows.len(), width]);
    for (y, &row) in y.data_mut().chunks_exact_mut(width).zip(&rows[..]) {
        y.copy_from_slice(&x.data()[row * width..][..width]);
    }
    y
}

/// At most `limit` of `0..n`, in rising order: all of them, or a draw keyed by the step.
fn draw(n: usize, limit: usize, clock: Clock) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    if n > limit {
        let mut rng = keyed(clock.seed, Purpose::Candidates, clock.epoch, clock.draw);
        for i in 0..limit {
            let other = i + below(&mut rng, n - i);
            all.swap(i, other);
        }
        all.truncate(limit);
        all.sort_unstable();
    }
    all
}

fn mean_cosine(a: &Tensor, b: &Tensor) -> f64 {
    let width = a.width();
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x * y) as f64).sum::<f64>();
    let pairs = a.data().chunks_exact(width).zip(b.data().chunks_exact(width));
    let sum: f64 = pairs.map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-12)).sum();
    sum / a.rows().max(1) as f64
}

/// Whether a teacher can teach a student of these sizes.
///
/// # Errors
/// Where its token grid is not the student's, it lacks the block that is wanted, or a student that is to begin as the teacher has another shape.
pub fn check_teacher(settings: &Settings, teacher: &VitConfig, student: &VitConfig) -> Result<(), Error> {
    if teacher.grid() != student.grid() || teacher.image != student.image {
        return Err(Error::Setting(format!(
            "the teacher's tokens do not lie on the student's: the teacher has {0}x{0} patches of {1} px at {2} px, the student {3}x{3} of {4} \
             px at {5} px; set model.patch_size={1} and model.image_size={2} (or teacher.model.image_size={5}, which resizes the teacher's \
             positions), or take another teacher",
            teacher.grid(),
            teacher.patch,
            teacher.image,
            student.grid(),
            student.patch,
            student.image
        )));
    }
    if let Some(layer) = settings.teacher_layer.set().filter(|&layer| layer < 1 || layer > teacher.depth) {
        return Err(Error::Setting(format!(
            "mimco.teacher_layer={layer}: the teacher has blocks 1 to {}; give one of them, or last",
            teacher.depth
        )));
    }
    let shape = |vit: &VitConfig| (vit.width, vit.depth, vit.heads, vit.mlp, vit.patch, vit.registers, vit.layer_scale != 0.0);
    if settings.student_init == StudentInit::Teacher && shape(teacher) != shape(student) {
        return Err(Error::Setting(format!(
            "mimco.student_init=teacher needs a student shaped as the teacher, which is {}, not {}; set model.arch, model.heads, model.registers \
             and model.layer_scale, or mimco.student_init=random",
            teacher.name(),
            student.name()
        )));
    }
    Ok(())
}
