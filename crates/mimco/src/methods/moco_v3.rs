//! MoCo v3 (Chen, Xie and He 2021): two views of an image identify each other among the batch, one of
//! them through a momentum encoder.

use super::method::{BuildContext, Method, ReadState, StateArray, StepInfo, copy_named};
use super::settings::moco_v3::{MocoV3Settings, MocoV3Spec};
use super::step_metrics::StepMetrics;
use crate::Error;
use crate::models::heads::BatchNormMlp;
use crate::models::tokens::TokenRows;
use crate::models::vit::{DropPathOptions, ForwardOptions, Initialization, Vit};
use crate::schedule::momentum;
use mimco_data::loader::Batch;
use mimco_engine::ops::{ContrastiveTargets, Positive, RunningStatistics};
use mimco_engine::optim::momentum_update;
use mimco_engine::{Gradients, Parameters, Tape, Tensor, Var};

/// Prefix of the encoder's parameter names.
const ENCODER: &str = "base_encoder.";

/// A MoCo v3 training.
pub struct MocoV3 {
    settings: MocoV3Settings,
    options: ForwardOptions,
    drop_path: f32,
    encoder: Vit,
    projector: BatchNormMlp,
    predictor: BatchNormMlp,
    /// Encoder, projector and predictor.
    parameters: Parameters,
    /// Momentum encoder and momentum projector, in the layout of the head of `parameters`.
    momentum_parameters: Parameters,
    statistics: Statistics,
}

/// Running statistics of the batch norms. Training uses each batch's own; checkpoints contain these.
#[derive(Clone)]
struct Statistics {
    projector: Vec<RunningStatistics>,
    predictor: Vec<RunningStatistics>,
    momentum_projector: Vec<RunningStatistics>,
}

impl MocoV3 {
    /// Builds a training at its first step, with random weights keyed by the seed.
    pub fn new(spec: &MocoV3Spec, context: BuildContext) -> MocoV3 {
        let BuildContext { model, seed, precision, .. } = context;
        let settings = spec.moco_v3.clone();
        let widths = |layers: usize, input: usize| {
            let hidden = std::iter::repeat_n(settings.hidden, layers - 1);
            std::iter::once(input).chain(hidden).chain([settings.out]).collect::<Vec<usize>>()
        };
        let declare = |parameters: &mut Parameters| {
            let encoder = Vit::declare(&model, parameters, ENCODER);
            (encoder, BatchNormMlp::declare(parameters, "projector", &widths(settings.projector_layers, model.width)))
        };
        let mut momentum_parameters = Parameters::new();
        declare(&mut momentum_parameters);
        let mut parameters = Parameters::new();
        let (encoder, projector) = declare(&mut parameters);
        let predictor = BatchNormMlp::declare(&mut parameters, "predictor", &widths(settings.predictor_layers, settings.out));

        encoder.initialize(&mut parameters, Initialization::Xavier, seed);
        projector.initialize(&mut parameters, seed, 0);
        predictor.initialize(&mut parameters, seed, 1);
        if settings.freeze_patch_embed {
            encoder.freeze_patch_embedding(&mut parameters);
        }
        parameters.set_precision(precision);
        momentum_parameters.set_precision(precision);
        let initial = parameters.flat_to_host();
        momentum_parameters.update_flat_on_host(|momentum| momentum.copy_from_slice(&initial[..momentum.len()]));
        drop(initial);

        let statistics =
            Statistics { projector: projector.statistics(), predictor: predictor.statistics(), momentum_projector: projector.statistics() };
        MocoV3 {
            options: ForwardOptions { recompute: context.recompute, rows: TokenRows::Class, ..ForwardOptions::default() },
            drop_path: context.drop_path,
            settings,
            encoder,
            projector,
            predictor,
            parameters,
            momentum_parameters,
            statistics,
        }
    }

    /// Computes the loss of two views [batch, 3, size, size] with values in 0..1, and adds
    /// `loss_scale` times its gradient to `gradients`:
    ///
    /// loss = ctr(q₁, k₂) + ctr(q₂, k₁), ctr = 2τ · InfoNCE over the batch
    pub fn losses(&mut self, views: [&Tensor; 2], info: StepInfo, loss_scale: f32, gradients: &mut Gradients) -> StepMetrics {
        let keys = views.map(|view| self.do_teacher(view));
        let (temperature, factor) = (self.settings.temperature, 2.0 * self.settings.temperature);
        let mut statistics = self.statistics.clone();
        let mut metrics = StepMetrics::default();
        for (i, view) in views.into_iter().enumerate() {
            // One tape for each view: the two losses share no activation, so memory holds one view's at a time.
            let mut tape = Tape::recording(&self.parameters);
            let q = self.do_student(&mut tape, view, 2 * info.draw + i as u64, info.seed, &mut statistics); // [batch, out]
            let k = &keys[1 - i]; // [batch, out]
            let positive: Vec<u32> = (0..k.rows() as u32).collect();
            let (keys, positive) = (&k.reshape([1, k.rows(), k.width()]), Positive::InKeys(&positive));
            let (ctr, wins) = tape.info_nce(&q, &ContrastiveTargets { keys, positive, sample_ids: None, temperature });
            let loss = ctr.value.scale(factor);
            tape.backward(&ctr, Tensor::scalar(loss_scale * factor), gradients, None);
            metrics.add("train/loss_image", loss.clone(), 1.0);
            metrics.add("train/acc_image", wins, 50.0); // the mean over two views, in percent
            metrics.add_loss(loss);
        }
        self.statistics = statistics;
        metrics
    }

    /// Computes the keys of a view by momentum encoder and momentum projector, [batch, out]: no
    /// gradient, batch norm by this batch's statistics.
    fn do_teacher(&mut self, view: &Tensor) -> Tensor {
        let mut tape = Tape::inference(&self.momentum_parameters);
        let options = ForwardOptions { rows: TokenRows::Class, ..ForwardOptions::default() };
        let class = self.encoder.forward(&mut tape, view, &options).class(&mut tape); // [batch, width]
        self.projector.forward(&mut tape, &class, &mut self.statistics.momentum_projector).value
    }

    /// Computes the queries of a view by encoder, projector and predictor, [batch, out].
    fn do_student(&self, tape: &mut Tape<'_>, view: &Tensor, draw: u64, seed: u64, statistics: &mut Statistics) -> Var {
        let drop_path = (self.drop_path > 0.0).then_some(DropPathOptions { rate: self.drop_path, seed, draw });
        let class = self.encoder.forward(tape, view, &ForwardOptions { drop_path, ..self.options.clone() }).class(tape); // [batch, width]
        let projection = self.projector.forward(tape, &class, &mut statistics.projector);
        self.predictor.forward(tape, &projection, &mut statistics.predictor)
    }

    /// Returns the parameters of momentum encoder and momentum projector, for tests to set.
    pub fn momentum_parameters_mut(&mut self) -> &mut Parameters {
        &mut self.momentum_parameters
    }
}

impl Method for MocoV3 {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn step(&mut self, batch: &Batch, info: StepInfo, loss_scale: f32, gradients: &mut Gradients) -> StepMetrics {
        let size = self.encoder.config.image;
        let shape = [batch.indices.len(), 3, size, size];
        let views = [0, 1].map(|i| Tensor::from_slice(shape, &batch.views[i]));
        self.losses([&views[0], &views[1]], info, loss_scale, gradients)
    }

    /// Moves the momentum encoder: target = m · target + (1 - m) · source.
    fn after_update(&mut self, info: StepInfo, finite: &Tensor) {
        let m = momentum(info.step, info.total, self.settings.momentum as f64) as f32;
        momentum_update(&mut self.momentum_parameters, &self.parameters, m, finite);
        for (_, statistics) in self.statistics.named_mut() {
            statistics.settle(finite);
        }
    }

    fn state(&self) -> Vec<StateArray> {
        let array = |name: String, shape: &[usize], data: &[f32]| StateArray { name, shape: shape.to_vec(), data: data.to_vec() };
        let weights = self.momentum_parameters.flat_to_host();
        let momentum = self.momentum_parameters.entries().iter();
        let momentum = momentum.map(|e| array(format!("momentum.{}", e.name), &e.shape, &weights[e.range.clone()]));
        let running = self.statistics.named().into_iter().flat_map(|(name, s)| {
            let one = |what: &str, data: &[f32]| array(format!("{name}.{what}"), &[data.len()], data);
            [one("running_mean", &s.mean_to_host()), one("running_var", &s.variance_to_host())]
        });
        momentum.chain(running).collect()
    }

    fn restore(&mut self, read: ReadState<'_>) -> Result<(), Error> {
        for entry in self.momentum_parameters.entries().to_vec() {
            let data = read(&format!("momentum.{}", entry.name), entry.range.len())?;
            self.momentum_parameters.update_flat_on_host(|flat| flat[entry.range].copy_from_slice(&data));
        }
        for (name, s) in self.statistics.named_mut() {
            let mean = read(&format!("{name}.running_mean"), s.width())?;
            let variance = read(&format!("{name}.running_var"), s.width())?;
            *s = RunningStatistics::from_host(&mean, &variance);
        }
        Ok(())
    }

    /// Counts two views, each four forward passes: one of the momentum encoder, one of the encoder, two
    /// for its backward pass (without the pixels' gradient). The last block computes class tokens alone.
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
