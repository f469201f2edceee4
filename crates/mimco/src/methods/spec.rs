//! Properties of a method that the program needs before training.

use crate::Error;
use crate::models::backbone::FeatureKind;
use crate::models::vit::VitConfig;
use mimco_data::loader::ViewSpec;

/// A method's settings: everything the program asks of a method before it trains.
///
/// A new method implements this on its settings and gets an arm in
/// [`MethodSettings`](crate::settings::MethodSettings).
pub trait MethodSpec {
    /// Returns the name of the method in recipes and exports.
    fn name(&self) -> &'static str;

    /// Returns the published recipe's optimizer and crops.
    fn defaults(&self) -> RecipeDefaults;

    /// Checks the settings against a model.
    ///
    /// # Errors
    /// The first value out of its range.
    fn check(&self, model: &VitConfig) -> Result<(), Error>;

    /// Returns whether the method trains against a frozen teacher.
    fn needs_teacher(&self) -> bool {
        false
    }

    /// Checks whether a teacher fits a student of these sizes; only for methods that need one.
    ///
    /// # Errors
    /// A teacher that does not fit, with the setting to change.
    fn check_teacher(&self, _teacher: &VitConfig, _student: &VitConfig) -> Result<(), Error> {
        Ok(())
    }

    /// Returns the feature of an image that the method trains.
    fn feature(&self) -> FeatureKind {
        FeatureKind::Class
    }

    /// Returns the random views of an image that the method trains on.
    fn views(&self, crop_scale: (f32, f32), flip: f32) -> ViewSpec;
}

/// Defaults of a published recipe, before a recipe file or a setting changes them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RecipeDefaults {
    /// Smallest and largest share of an image's area that a crop takes.
    pub crop_scale: (f32, f32),
    /// Learning rate for a batch of `lr_batch`.
    pub lr: f64,
    /// Batch size that `lr` belongs to.
    pub lr_batch: usize,
    /// Final learning rate for a batch of `lr_batch`.
    pub min_lr: f64,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether biases, norms, positions and tokens decay too.
    pub decay_all: bool,
    /// Largest gradient norm; 0 for no clipping.
    pub clip: f32,
}
