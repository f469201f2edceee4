//! MoCo v3 (Chen, Xie and He 2021): two views of an image find each other among the batch, across a momentum encoder.

use super::{Clock, Figures, Find, Method, StateArray, copy_named};
use crate::Error;
use crate::models::heads::BatchNormMlp;
use crate::models::vit::{Forward, Start, Vit, VitConfig};
use crate::settings::{Config, MocoV3 as Settings};
use crate::training::schedule::moco_momentum;
use mimco_data::augment::MocoAugment;
use mimco_data::loader::Batch;
use mimco_data::pipeline::Pipeline;
use mimco_engine::ops::{Candidates, Contrast, RunningStatistics};
use mimco_engine::optim::momentum_update;
use mimco_engine::{Parameters, Tape, Tensor, Var};

/// What stands before the encoder's names.
const ENCODER: &str = "base_encoder.";

/// A MoCo v3 training.
pub struct MocoV3 {
    settings: Settings,
    augment: MocoAugment,
    forward: Forward,
    drop_path: f32,
    encoder: Vit,
    projector: BatchNormMlp,
    predictor: BatchNormMlp,
    /// Encoder, projector, predictor.
    parameters: Parameters,
    /// Encoder and projector, laid out as the head of `parameters`.
    momentum_parameters: Parameters,
    statistics: Statistics,
    /// As they were before the step, should it be skipped.
    statistics_before: Statistics,
}

/// Running statistics of the batch norms, for checkpoints alone: training uses each batch's own.
#[derive(Clone)]
struct Statistics {
    projector: Vec<RunningStatistics>,
    predictor: Vec<RunningStatistics>,
    momentum_projector: Vec<RunningStatistics>,
}

impl MocoV3 {
    /// A training of an encoder of these sizes at its beginning, random weights keyed by the seed.
    pub fn new(config: &Config, vit: &VitConfig, settings: &Settings) -> MocoV3 {
        let wide = |n: usize, input: usize| {
            let mut widths = vec![input];
            widths.extend(std::iter::repeat_n(settings.hidden, n - 1));
            widths.push(settings.out);
            widths
        };
        let projector_widths = wide(settings.projector_layers, vit.width);
        let declare = |parameters: &mut Parameters| {
            let encoder = Vit::declare(vit, parameters, ENCODER);
            (encoder, BatchNormMlp::declare(parameters, "projector", &projector_widths))
        };
        let mut momentum_parameters = Parameters::new();
        declare(&mut momentum_parameters);
        let mut parameters = Parameters::new();
        let (encoder, projector) = declare(&mut parameters);
        let predictor = BatchNormMlp::declare(&mut parameters, "predictor", &wide(settings.predictor_layers, settings.out));
        encoder.initialise(&mut parameters, Start::Xavier, config.seed);
        projector.initialise(&mut parameters, config.seed, 0);
        predictor.initialise(&mut parameters, config.seed, 1);
        if settings.freeze_patch_embed {
            encoder.freeze_patch_embedding(&mut parameters);
        }
        parameters.set_precision(config.precision.engine());
        momentum_parameters.set_precision(config.precision.engine());
        let shared = momentum_parameters.flat().len();
        momentum_parameters.flat_mut().copy_from_slice(&parameters.flat()[..shared]);
        let statistics =
            Statistics { projector: projector.statistics(), predictor: predictor.statistics(), momentum_projector: projector.statistics() };
        MocoV3 {
            settings: settings.clone(),
            augment: config.moco_augment(settings),
            forward: Forward { recompute: config.train.recompute, ..Forward::default() },
            drop_path: config.model.drop_path,
            encoder,
            projector,
            predictor,
            parameters,
            momentum_parameters,
            statistics_before: statistics.clone(),
            statistics,
        }
    }

    /// The loss of two views [batch, 3, size, size] in 0..1, its gradient added to `gradients` times `share`:
    /// loss = ctr(q1, k2) + ctr(q2, k1), ctr = 2τ · InfoNCE over the batch.
    pub fn losses(&mut self, views: [&Tensor; 2], clock: Clock, share: f32, gradients: &mut [f32]) -> Figures {
        let keys = views.map(|view| self.keys(view));
        let factor = 2.0 * self.settings.temperature;
        let (mut loss, mut wins) = (0.0, 0.0);
        for (i, view) in views.into_iter().enumerate() {
            // A tape for each view: its loss needs nothing of the other's, and memory holds one at a time.
            let mut tape = Tape::recording(&self.parameters);
            let drop_path = (self.drop_path > 0.0).then_some((self.drop_path, clock.seed, 2 * clock.draw + i as u64));
            let forward = Forward { drop_path, ..self.forward.clone() };
            let class = class_tokens(&self.encoder, &mut tape, view, &forward);
            let q = self.projector.forward(&mut tape, &class, &mut self.statistics.projector);
            let q = self.predictor.forward(&mut tape, &q, &mut self.statistics.predictor); // [batch, out]
            let keys = &keys[1 - i];
            let batch = keys.rows();
            let targets: Vec<u32> = (0..batch as u32).collect();
            let contrast = Contrast {
                keys: &keys.reshape([1, batch, keys.width()]),
                candidates: Candidates::Among(&targets),
                owners: None,
                temperature: self.settings.temperature,
            };
            let (ctr, won) = tape.info_nce(&q, &contrast);
            tape.backward(&ctr, Tensor::scalar(share * factor), gradients, None);
            loss += (factor * ctr.value.item()) as f64;
            wins += 100.0 * won as f64 / 2.0;
        }
        Figures::from([("train/loss", loss), ("train/loss_image", loss), ("train/acc_image", wins)])
    }

    /// Keys of a view by the momentum encoder and projector, [batch, out]; no gradient, batch norm by this batch's statistics.
    fn keys(&mut self, view: &Tensor) -> Tensor {
        let mut tape = Tape::inference(&self.momentum_parameters);
        let class = class_tokens(&self.encoder, &mut tape, view, &Forward::default());
        self.projector.forward(&mut tape, &class, &mut self.statistics.momentum_projector).value
    }

    /// Momentum encoder's and projector's parameters, to set them in tests.
    pub fn momentum_parameters_mut(&mut self) -> &mut Parameters {
        &mut self.momentum_parameters
    }
}

/// The class tokens, [batch, width]; the other tokens' last steps, which nothing reads, are left out.
fn class_tokens(encoder: &Vit, tape: &mut Tape<'_>, images: &Tensor, how: &Forward) -> Var {
    let rows = Some(encoder.class_rows(images.dims()[0]));
    encoder.forward(tape, images, &Forward { rows, ..how.clone() })
}

impl Method for MocoV3 {
    fn pipeline(&self) -> Pipeline {
        Pipeline::MocoV3(self.augment.clone())
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn step(&mut self, batch: &Batch, clock: Clock, share: f32, gradients: &mut [f32]) -> Figures {
        let size = self.encoder.config.image;
        let shape = [batch.indices.len(), 3, size, size];
        let views = [0, 1].map(|i| Tensor::from_slice(shape, &batch.views[i]));
        self.losses([&views[0], &views[1]], clock, share, gradients)
    }

    /// The momentum encoder follows with a momentum that rises from its setting to 1 over the run.
    fn updated(&mut self, clock: Clock) {
        let momentum = moco_momentum(clock.step, clock.total, self.settings.momentum as f64) as f32;
        let target = self.momentum_parameters.flat_mut();
        momentum_update(target, &self.parameters.flat()[..target.len()], momentum);
        self.statistics_before = self.statistics.clone();
    }

    fn skip(&mut self) {
        self.statistics = self.statistics_before.clone();
    }

    fn state(&self) -> Vec<StateArray> {
        let array = |name: String, shape: &[usize], data: &[f32]| StateArray { name, shape: shape.to_vec(), data: data.to_vec() };
        let momentum = self
            .momentum_parameters
            .entries()
            .iter()
            .map(|e| array(format!("momentum.{}", e.name), &e.shape, &self.momentum_parameters.flat()[e.range.clone()]));
        let running = self.statistics.named().into_iter().flat_map(|(name, s)| {
            let one = |what: &str, data: &[f32]| array(format!("{name}.{what}"), &[data.len()], data);
            [one("running_mean", &s.mean), one("running_var", &s.variance)]
        });
        momentum.chain(running).collect()
    }

    fn restore(&mut self, find: Find<'_>) -> Result<(), Error> {
        for entry in self.momentum_parameters.entries().to_vec() {
            let data = find(&format!("momentum.{}", entry.name), entry.range.len())?;
            self.momentum_parameters.flat_mut()[entry.range].copy_from_slice(&data);
        }
        for (name, s) in self.statistics.named_mut() {
            s.mean = find(&format!("{name}.running_mean"), s.mean.len())?;
            s.variance = find(&format!("{name}.running_var"), s.variance.len())?;
        }
        self.statistics_before = self.statistics.clone();
        Ok(())
    }

    /// Two views, each forward, backward (twice a forward, but no pixels' gradient) and once through the momentum encoder; class tokens alone.
    fn flop_per_image(&self) -> f64 {
        let vit = &self.encoder.config;
        let frozen = if self.settings.freeze_patch_embed { 2.0 } else { 1.0 };
        2.0 * (4.0 * vit.forward_flop(1) - frozen * vit.embedding_flop())
    }

    fn load_backbone(&mut self, weights: &Parameters) {
        copy_named(weights, &mut self.parameters, ENCODER);
        copy_named(weights, &mut self.momentum_parameters, ENCODER);
    }

    fn backbone(&self) -> (&Vit, &Parameters) {
        (&self.encoder, &self.parameters)
    }
}

impl Statistics {
    fn named(&self) -> Vec<(String, &RunningStatistics)> {
        let mut all = Vec::new();
        for (prefix, norms) in
            [("projector", &self.projector), ("predictor", &self.predictor), ("momentum.projector", &self.momentum_projector)]
        {
            all.extend(norms.iter().enumerate().map(|(i, s)| (format!("{prefix}.norms.{i}"), s)));
        }
        all
    }

    fn named_mut(&mut self) -> Vec<(String, &mut RunningStatistics)> {
        let names: Vec<String> = self.named().into_iter().map(|(name, _)| name).collect();
        let all = self.projector.iter_mut().chain(&mut self.predictor).chain(&mut self.momentum_projector);
        names.into_iter().zip(all).collect()
    }
}
