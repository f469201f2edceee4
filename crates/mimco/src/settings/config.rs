//! All settings of a stage, with their defaults.

use super::flat::{flatten, flatten_to_text, one_line};
use super::method::MethodSettings;
use super::run_options::{OptimizerName, Precision};
use crate::Error;
use crate::methods::{BuildContext, Method};
use crate::models::arch::Arch;
use crate::models::backbone::Backbone;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::{IMAGENET_MEAN, IMAGENET_STD, NORM_EPS, Position, VitConfig};
use crate::values::Auto;
use mimco_data::loader::ViewSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Table;

/// Settings that do not affect the trained weights.
const RUNTIME_ONLY_KEYS: [&str; 4] = ["data.workers", "data.max_broken", "train.checkpoint_steps", "train.recompute"];

/// All settings of one stage.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Seed of every random number of the run.
    pub seed: u64,
    /// Precision of activations and matrix products.
    pub precision: Precision,
    /// The backbone.
    pub model: Model,
    /// Images and their statistics.
    pub data: Data,
    /// Random crops and flips.
    pub augment: Augment,
    /// The training loop.
    pub train: Train,
    /// The optimizer.
    pub optim: Optim,
    /// The method and its own tables.
    #[serde(flatten)]
    pub method: MethodSettings,
    /// Settings that override or complete what a given teacher's file contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_teacher: Option<BackboneOverrides>,
}

/// Shape of the backbone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Width and depth: nano 128 x 6, tiny 192 x 12, small 384 x 12, base 768 x 12, large 1024 x 24.
    pub arch: Arch,
    /// Attention heads; auto: nano 4, tiny 3, small 6, base 12, large 16. MoCo v3's published ViT-S has 12.
    pub heads: Auto<usize>,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Position embedding: sincos (fixed) or learned.
    pub position: Position,
    /// Number of register tokens (Darcet et al. 2023); DINOv2's later models have 4.
    pub registers: usize,
    /// Initial factor of LayerScale, as in DINOv2; 0 for none.
    pub layer_scale: f32,
    /// Drop path: probability of dropping a branch in the last block, rising linearly from 0.
    pub drop_path: f32,
}

/// How images are read and normalized.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Channel means, values in 0..1.
    pub mean: [f32; 3],
    /// Channel standard deviations.
    pub std: [f32; 3],
    /// Threads that decode and augment; auto: half of the engine's.
    pub workers: Auto<usize>,
    /// Largest share of unreadable images before a run stops; ten are always allowed.
    pub max_broken: f64,
    /// Largest number of pixels of an image; larger ones are errors.
    pub max_pixels: u64,
    /// Shuffle window in MiB, where images are read in groups (Parquet, shards in object stores).
    pub window_mib: u64,
}

/// Random crops and flips.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Smallest and largest share of an image's area in a crop.
    pub crop_scale: (f32, f32),
    /// Probability of a horizontal flip.
    pub flip: f32,
}

/// The training loop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per batch; contrastive losses take their negatives from it.
    pub batch_size: usize,
    /// Batches whose gradients are added before an update. Negatives come from one batch alone.
    pub accumulate: usize,
    /// Share of the updates in which the learning rate rises.
    pub warmup: f64,
    /// Updates between checkpoints; each epoch ends with one too.
    pub checkpoint_steps: u64,
    /// Updates between two lines of metrics.
    pub log_steps: u64,
    /// Epochs between two evaluations of the features.
    pub eval_epochs: usize,
    /// Number of labelled training images that kNN uses during training.
    pub knn_samples: usize,
    /// Number of neighbors that vote.
    pub knn_k: usize,
    /// Temperature of the votes.
    pub knn_temperature: f64,
    /// Largest number of consecutive updates skipped for values that are not finite.
    pub max_bad_steps: u64,
    /// Keep only each block's input and run the block again in the backward pass: less memory, a third
    /// more work.
    pub recompute: bool,
}

/// The optimizer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// Rule: adamw or sgd.
    pub name: OptimizerName,
    /// Learning rate for a batch of `lr_batch`; it scales with the batch size.
    pub lr: f64,
    /// Batch size that `lr` belongs to.
    pub lr_batch: usize,
    /// Final learning rate for a batch of `lr_batch`.
    pub min_lr: f64,
    /// Weight decay.
    pub weight_decay: f32,
    /// Apply weight decay to biases, norms, positions and tokens too, as MoCo v3 does.
    pub decay_all: bool,
    /// AdamW's β₁ and β₂; SGD's momentum is the first.
    pub betas: [f32; 2],
    /// AdamW's epsilon.
    pub eps: f32,
    /// Largest gradient norm; 0 for no clipping.
    pub clip: f32,
}

impl Config {
    /// Returns the defaults of a method: the published recipe's optimizer and crops, for photos on one
    /// machine.
    pub fn defaults(method: MethodSettings) -> Config {
        let recipe = method.spec().defaults();
        Config {
            method,
            seed: 0,
            precision: Precision::Auto,
            model: Model {
                arch: Arch::Tiny,
                heads: Auto::Auto,
                patch_size: 16,
                image_size: 224,
                position: Position::Sincos,
                registers: 0,
                layer_scale: 0.0,
                drop_path: 0.0,
            },
            data: Data {
                mean: IMAGENET_MEAN,
                std: IMAGENET_STD,
                workers: Auto::Auto,
                max_broken: 0.01,
                max_pixels: mimco_data::decode::MAX_PIXELS,
                window_mib: 512,
            },
            augment: Augment { crop_scale: recipe.crop_scale, flip: 0.5 },
            train: Train {
                epochs: 100,
                batch_size: 128,
                accumulate: 1,
                warmup: 0.1,
                checkpoint_steps: 100,
                log_steps: 10,
                eval_epochs: 1,
                knn_samples: 5000,
                knn_k: 20,
                knn_temperature: 0.07,
                max_bad_steps: 10,
                recompute: false,
            },
            optim: Optim {
                name: OptimizerName::Adamw,
                lr: recipe.lr,
                lr_batch: recipe.lr_batch,
                min_lr: recipe.min_lr,
                weight_decay: recipe.weight_decay,
                decay_all: recipe.decay_all,
                betas: [0.9, 0.999],
                eps: 1e-8,
                clip: recipe.clip,
            },
            given_teacher: None,
        }
    }

    /// Parses what [`Config::to_toml`] wrote.
    ///
    /// # Errors
    /// Text that is not TOML, an unknown key, a missing one, or a value of the wrong type.
    pub fn from_toml(text: &str) -> Result<Config, Error> {
        let table: Table = toml::from_str(text).map_err(|e| Error::Setting(one_line(&e.to_string())))?;
        let config: Config = table.clone().try_into().map_err(|e: toml::de::Error| Error::Setting(one_line(e.message())))?;
        let known = flatten(&config.to_table());
        match flatten(&table).into_keys().find(|key| !known.contains_key(key)) {
            Some(key) => Err(Error::Setting(format!("unknown setting {key}"))),
            None => Ok(config),
        }
    }

    /// Returns the resolved settings as TOML, for `config.toml`.
    pub fn to_toml(&self) -> String {
        // Numbers, texts and tables always have a TOML form.
        toml::to_string(self).unwrap_or_default()
    }

    /// Returns the settings as a TOML table.
    pub(super) fn to_table(&self) -> Table {
        Table::try_from(self).unwrap_or_default()
    }

    /// Returns the settings that determine the trained weights, one `key=value` a line.
    pub fn reproducible_settings(&self) -> String {
        let all = flatten_to_text(&self.to_table()).into_iter().filter(|(key, _)| !RUNTIME_ONLY_KEYS.contains(&key.as_str()));
        all.map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// Returns the settings that override or complete what a given teacher's file contains.
    pub fn teacher_overrides(&self) -> BackboneOverrides {
        BackboneOverrides { of_teacher: true, ..self.given_teacher.clone().unwrap_or_default() }
    }

    /// Lists the settings by which `self` would train other weights than `old` did.
    pub fn differences(&self, old: &Config) -> Vec<String> {
        let (new, old) = (flatten_to_text(&self.to_table()), flatten_to_text(&old.to_table()));
        let keys = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
        keys.filter(|key| !RUNTIME_ONLY_KEYS.contains(&key.as_str()) && new.get(*key) != old.get(*key))
            .map(|key| {
                let show = |all: &BTreeMap<String, String>| all.get(key).cloned().unwrap_or("unset".into());
                format!("{key} is {}, was {}", show(&new), show(&old))
            })
            .collect()
    }

    /// Returns the sizes of the backbone.
    pub fn vit(&self) -> VitConfig {
        let (width, depth, heads) = self.model.arch.sizes();
        VitConfig {
            width,
            depth,
            heads: self.model.heads.value().unwrap_or(heads),
            mlp: 4 * width,
            patch: self.model.patch_size,
            image: self.model.image_size,
            position: self.model.position,
            registers: self.model.registers,
            layer_scale: self.model.layer_scale,
            norm_eps: NORM_EPS,
            mean: self.data.mean,
            std: self.data.std,
        }
    }

    /// Returns the random views of an image that the method trains on.
    pub fn views(&self) -> ViewSpec {
        self.method.spec().views(self.augment.crop_scale, self.augment.flip)
    }

    /// Builds the method at its first step. `images` is the number of training images.
    ///
    /// # Errors
    /// A teacher that is missing or does not fit.
    pub fn build_method(&self, teacher: Option<Backbone>, images: usize) -> Result<Box<dyn Method>, Error> {
        self.method.build(BuildContext {
            model: self.vit(),
            seed: self.seed,
            precision: self.precision.engine(),
            drop_path: self.model.drop_path,
            recompute: self.train.recompute,
            teacher,
            images,
        })
    }

    /// Returns the number of threads that decode and augment.
    pub fn workers(&self) -> usize {
        self.data.workers.value().unwrap_or((mimco_engine::cpu::threads::threads() / 2).max(1))
    }

    /// Returns the number of images per update.
    pub fn images_per_update(&self) -> usize {
        self.train.batch_size * self.train.accumulate
    }

    /// Returns the peak learning rate, scaled by the batch size.
    pub fn learning_rate(&self) -> f64 {
        self.optim.lr * self.images_per_update() as f64 / self.optim.lr_batch as f64
    }

    /// Returns the final learning rate, scaled by the batch size.
    pub fn min_learning_rate(&self) -> f64 {
        self.optim.min_lr * self.images_per_update() as f64 / self.optim.lr_batch as f64
    }

    /// Returns the number of updates in which the learning rate rises.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        (total as f64 * self.train.warmup).round() as u64
    }
}
