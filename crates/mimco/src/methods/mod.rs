//! The methods: one training step of each, on one screen.

pub mod mask;
pub mod mimco;
pub mod moco_v3;
mod queue;

use crate::Error;
use crate::models::vit::Vit;
use mimco_data::loader::Batch;
use mimco_data::pipeline::Pipeline;
use mimco_engine::Parameters;
use std::collections::BTreeMap;

/// Where a training stands.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Updates done.
    pub step: u64,
    /// Names the random draws of a batch: another number for each, those that are accumulated too.
    pub draw: u64,
    /// Updates of the whole run.
    pub total: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// The run's seed.
    pub seed: u64,
}

/// Figures of a step by their metric names.
pub type Figures = BTreeMap<&'static str, f64>;

/// A named array of a method's further state, for checkpoints.
pub struct StateArray {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
}

/// Finds an array of a checkpoint by its name and the number of elements that is needed; 0 takes any number, none included.
pub type Find<'a> = &'a mut dyn FnMut(&str, usize) -> Result<Vec<f32>, Error>;

/// What the training loop needs of a method.
pub trait Method {
    /// How images become views.
    fn pipeline(&self) -> Pipeline;
    /// The trained parameters.
    fn parameters(&self) -> &Parameters;
    /// The trained parameters, for the optimizer and checkpoints.
    fn parameters_mut(&mut self) -> &mut Parameters;
    /// Loss of a batch; adds `share` times its gradient to `gradients`. Changes nothing that [`Method::skip`] does not take back.
    fn step(&mut self, batch: &Batch, clock: Clock, share: f32, gradients: &mut [f32]) -> Figures;
    /// After an update of the parameters (`clock.step` updates done): momentum encoder, queue.
    fn updated(&mut self, clock: Clock);
    /// In place of an update, where loss or gradient were not finite.
    fn skip(&mut self);
    /// State beside the parameters: momentum encoder, running statistics, queue.
    fn state(&self) -> Vec<StateArray>;
    /// Takes back what [`Method::state`] gave.
    fn restore(&mut self, find: Find<'_>) -> Result<(), Error>;
    /// Floating-point operations of a training step for one image, heads left out.
    fn flop_per_image(&self) -> f64;
    /// Takes the weights of a backbone of the same shape.
    fn load_backbone(&mut self, weights: &Parameters);
    /// The backbone to evaluate and export.
    fn backbone(&self) -> (&Vit, &Parameters);
}

/// Copies parameters of the same name, behind `prefix` in `to`.
fn copy_named(from: &Parameters, to: &mut Parameters, prefix: &str) {
    for entry in from.entries() {
        if let Some(id) = to.find(&format!("{prefix}{}", entry.name)) {
            to.get_mut(id).copy_from_slice(&from.flat()[entry.range.clone()]);
        }
    }
}
