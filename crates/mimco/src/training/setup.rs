//! Values that follow from a stage's settings and number of images.

use super::images::Images;
use crate::methods::Method;
use crate::settings::{Config, OptimizerName};
use mimco_data::loader::{Loader, LoaderOptions};
use mimco_engine::optim::Rule;

/// Returns the settings for a set of this size. A set smaller than one update gets a smaller batch,
/// and a message reports it.
pub(super) fn fit_batch(config: &Config, images: usize) -> (Config, Option<String>) {
    let mut config = config.clone();
    let per_update = config.images_per_update();
    if images >= per_update {
        return (config, None);
    }
    config.train.accumulate = config.train.accumulate.min(images / 2).max(1);
    config.train.batch_size = config.train.batch_size.min(images / config.train.accumulate);
    let message = format!(
        "{images} images are fewer than a batch of {per_update}: training with batches of {} (few negatives; more images are better)",
        config.train.batch_size
    );
    (config, Some(message))
}

/// Returns the optimizer's rule.
pub(super) fn rule(config: &Config) -> Rule {
    match config.optim.name {
        OptimizerName::Adamw => Rule::AdamW { beta1: config.optim.betas[0], beta2: config.optim.betas[1], eps: config.optim.eps },
        OptimizerName::Sgd => Rule::Sgd { momentum: config.optim.betas[0] },
    }
}

/// Returns the options of the training loader.
pub(super) fn loader_options(config: &Config) -> LoaderOptions {
    LoaderOptions {
        batch_size: config.train.batch_size,
        seed: config.seed,
        workers: config.workers(),
        queue: 4,
        image_size: config.model.image_size as u32,
        max_broken: config.data.max_broken,
    }
}

/// Returns the number of updates of an epoch.
pub(super) fn steps_per_epoch(config: &Config, loader: &Loader) -> u64 {
    (loader.batches_per_epoch() / config.train.accumulate.max(1)).max(1) as u64
}

/// Describes the model, the images and the scaled learning rate.
pub(super) fn opening_line(config: &Config, method: &dyn Method, loader: &Loader, images: &Images) -> String {
    format!(
        "{}: {} with {:.1} M parameters to train, {} images{}, {} epochs of {} steps, batch {}{}; learning rate {} for a batch of {}, scaled to {:.3e}",
        config.method.spec().name(),
        config.vit().name(),
        method.parameters().trainable_elements() as f64 / 1e6,
        images.train.len(),
        images.val.as_ref().map_or(String::new(), |val| format!(" and {} to validate", val.len())),
        config.train.epochs,
        steps_per_epoch(config, loader),
        config.train.batch_size,
        if config.train.accumulate > 1 { format!(" x {} accumulated", config.train.accumulate) } else { String::new() },
        config.optim.lr,
        config.optim.lr_batch,
        config.learning_rate(),
    )
}
