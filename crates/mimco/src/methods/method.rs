//! What the training loop needs of a method.

use super::step_metrics::StepMetrics;
use crate::Error;
use crate::models::backbone::Backbone;
use crate::models::vit::{Vit, VitConfig};
use mimco_data::loader::Batch;
use mimco_engine::{Gradients, Parameters, Tensor};

/// Inputs to build a method, besides its settings.
pub struct BuildContext {
    /// Sizes of the backbone to train.
    pub model: VitConfig,
    /// Seed of the run.
    pub seed: u64,
    /// Precision of activations and matrix products.
    pub precision: mimco_engine::Precision,
    /// Drop path rate of the last block.
    pub drop_path: f32,
    /// Whether each block keeps only its input and runs again in the backward pass.
    pub recompute: bool,
    /// The frozen teacher.
    pub teacher: Option<Backbone>,
    /// Number of training images.
    pub images: usize,
}

/// Position in the run: update, epoch and random key.
#[derive(Clone, Copy, Debug)]
pub struct StepInfo {
    /// Updates done.
    pub step: u64,
    /// Key of the batch's random draws; accumulated batches of one update differ in it.
    pub draw: u64,
    /// Updates of the whole run.
    pub total: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Seed of the run.
    pub seed: u64,
}

/// A named array of a method's own state, for checkpoints.
pub struct StateArray {
    /// Name of the array.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row by row.
    pub data: Vec<f32>,
}

/// Reads an array of a checkpoint by its name and number of elements. With 0 elements any number
/// is accepted, a missing array included.
pub type ReadState<'a> = &'a mut dyn FnMut(&str, usize) -> Result<Vec<f32>, Error>;

/// A method in training.
pub trait Method {
    /// Returns the trained parameters.
    fn parameters(&self) -> &Parameters;

    /// Returns the trained parameters for the optimizer and for checkpoints.
    fn parameters_mut(&mut self) -> &mut Parameters;

    /// Computes the losses of a batch and adds `loss_scale` times their gradient to `gradients`.
    fn step(&mut self, batch: &Batch, info: StepInfo, loss_scale: f32, gradients: &mut Gradients) -> StepMetrics;

    /// Follows an update of the parameters: momentum encoder, queue, running statistics. `info.step`
    /// counts the update. Where `finite` `[1]` is 0, the step changes nothing.
    fn after_update(&mut self, info: StepInfo, finite: &Tensor);

    /// Returns the state next to the parameters: momentum encoder, running statistics, queue.
    fn state(&self) -> Vec<StateArray>;

    /// Restores the state that [`Method::state`] returned.
    ///
    /// # Errors
    /// An array that is missing or does not fit.
    fn restore(&mut self, read: ReadState<'_>) -> Result<(), Error>;

    /// Returns the floating-point operations of a training step for one image, heads left out.
    fn flop_per_image(&self) -> f64;

    /// Copies the weights of a backbone of the same shape.
    fn load_backbone(&mut self, weights: &Parameters);

    /// Returns the backbone to evaluate and export.
    fn backbone(&self) -> (&Vit, &Parameters);
}

/// Copies every parameter of `from` to the parameter of `to` whose name is `prefix` and the same name.
pub(super) fn copy_named(from: &Parameters, to: &mut Parameters, prefix: &str) {
    let values = from.flat_to_host();
    for entry in from.entries() {
        if let Some(target) = to.find(&format!("{prefix}{}", entry.name)) {
            to.update_on_host(target, |target| target.copy_from_slice(&values[entry.range.clone()]));
        }
    }
}
