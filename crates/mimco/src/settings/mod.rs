//! The settings of a run: every one has a default, and a run writes down what it resolved to.

pub(crate) mod check;
mod method;
mod plan;
mod values;

use crate::Error;
pub use crate::models::arch::Arch;
use crate::models::backbone::FeatureKind;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::{IMAGENET_MEAN, IMAGENET_STD, NORM_EPS, Position, VitConfig};
pub use method::{HeadKind, ImageLoss, Mask, Mimco, MocoV3, PatchCandidates, PatchLoss, Pooling, StudentInit, TeacherNorm};
use mimco_data::augment::{MimAugment, MocoAugment};
pub use plan::{Plan, RECIPES, Teacher};
use serde::{Deserialize, Serialize};
pub use values::{Auto, Layer, MethodName, OptimizerName, Precision};

/// These change how a run goes about it, not what comes out.
const HARMLESS: [&str; 4] = ["data.workers", "data.max_broken", "train.checkpoint_steps", "train.recompute"];

/// All settings of one stage.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What trains.
    pub method: MethodName,
    /// Names every random number of the run.
    pub seed: u64,
    /// What activations and matrix products are computed in.
    pub precision: Precision,
    /// The backbone.
    pub model: Model,
    /// Images.
    pub data: Data,
    /// Random crops and flips.
    pub augment: Augment,
    /// The loop.
    pub train: Train,
    /// The optimizer.
    pub optim: Optim,
    /// What the student does not see; MimCo only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// MoCo v3's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moco_v3: Option<MocoV3>,
    /// MimCo's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mimco: Option<Mimco>,
    /// What a given teacher's file does not say, or says wrongly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_teacher: Option<BackboneOverrides>,
}

/// The backbone's shape.
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
    /// Positions: sincos (fixed) or learned.
    pub position: Position,
    /// Register tokens (Darcet et al. 2023), which DINOv2 has 4 of in its later models.
    pub registers: usize,
    /// What LayerScale's factors of the branches begin with; 0: no LayerScale. DINOv2 has it.
    pub layer_scale: f32,
    /// Probability of dropping a branch in the last block, rising from 0 in the first.
    pub drop_path: f32,
}

/// Where images come from and how they are normalised.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Mean of the channels, values in 0..1.
    pub mean: [f32; 3],
    /// Deviation of the channels.
    pub std: [f32; 3],
    /// Threads that decode and augment; auto: half the engine's.
    pub workers: Auto<usize>,
    /// Share of the images that may be unreadable before a run stops (ten always may).
    pub max_broken: f64,
    /// Images of more pixels are refused.
    pub max_pixels: u64,
    /// MiB of images among which an epoch's order mixes, where they are read in groups (parquet, shards in object stores).
    pub window_mib: u64,
}

/// Crops and flips.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Smallest and largest share of an image's area that a crop takes.
    pub crop_scale: (f32, f32),
    /// Probability of a mirrored crop.
    pub flip: f32,
}

/// The training loop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the images.
    pub epochs: usize,
    /// Images a batch; contrastive losses find their negatives in it.
    pub batch_size: usize,
    /// Batches whose gradients are added up before an update. Each finds negatives in itself alone.
    pub accumulate: usize,
    /// Share of the run in which the learning rate rises.
    pub warmup: f64,
    /// Updates between checkpoints; every epoch ends with one besides.
    pub checkpoint_steps: u64,
    /// Updates between lines of metrics.
    pub log_steps: u64,
    /// Epochs between looks at the features.
    pub eval_epochs: usize,
    /// Labelled training images that kNN votes among while training.
    pub knn_samples: usize,
    /// Neighbours that vote.
    pub knn_k: usize,
    /// Temperature of their votes.
    pub knn_temperature: f64,
    /// Updates in a row that may be skipped for numbers that are not finite.
    pub max_bad_steps: u64,
    /// Keep each block's input alone and run the block again on the way back: less memory, a third more work.
    pub recompute: bool,
}

/// The optimizer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// adamw or sgd.
    pub name: OptimizerName,
    /// Learning rate for a batch of `lr_batch`; it is scaled by the batch.
    pub lr: f64,
    /// The batch that `lr` is for.
    pub lr_batch: usize,
    /// Learning rate at the end, scaled likewise.
    pub min_lr: f64,
    /// Weight decay.
    pub weight_decay: f32,
    /// Decay biases, norms, positions and tokens too, as MoCo v3 does.
    pub decay_all: bool,
    /// AdamW's two rates; SGD's momentum is the first.
    pub betas: [f32; 2],
    /// AdamW's epsilon.
    pub eps: f32,
    /// Largest norm of the gradient; 0 is off.
    pub clip: f32,
}

impl Config {
    /// The defaults of a method: the published recipe's optimizer and augmentation, for photos on one machine.
    pub fn defaults(method: MethodName) -> Config {
        let moco = method == MethodName::MocoV3;
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
            augment: Augment { crop_scale: if moco { (0.08, 1.0) } else { (0.67, 1.0) }, flip: 0.5 },
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
                lr: if moco { 1.5e-4 } else { 2e-4 },
                lr_batch: if moco { 256 } else { 512 },
                min_lr: if moco { 0.0 } else { 1e-5 },
                weight_decay: if moco { 0.1 } else { 0.05 },
                decay_all: moco,
                betas: [0.9, 0.999],
                eps: 1e-8,
                clip: if moco { 0.0 } else { 5.0 },
            },
            mask: (!moco).then(Mask::default),
            moco_v3: moco.then(MocoV3::default),
            mimco: (!moco).then(Mimco::default),
            given_teacher: None,
        }
    }

    /// Reads what [`Config::to_toml`] wrote.
    ///
    /// # Errors
    /// In one line, what is wrong with it.
    pub fn from_toml(text: &str) -> Result<Config, Error> {
        toml::from_str(text).map_err(|e| Error::Setting(one_line(&e.to_string())))
    }

    /// The resolved settings, for `config.toml`.
    pub fn to_toml(&self) -> String {
        // A tree of numbers, texts and tables always has a form in TOML.
        toml::to_string(self).unwrap_or_default()
    }

    /// What changes what comes out of a run, as text: all settings but those that only change how it goes about it.
    pub fn lasting(&self) -> String {
        let all = plan::flatten(self).into_iter().filter(|(key, _)| !HARMLESS.contains(&key.as_str()));
        all.map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// What a given teacher's file does not say.
    pub fn teacher_overrides(&self) -> BackboneOverrides {
        BackboneOverrides { of_teacher: true, ..self.given_teacher.clone().unwrap_or_default() }
    }

    /// In words, where `self` would train something else than `old` did.
    pub fn differences(&self, old: &Config) -> Vec<String> {
        let (new, old) = (plan::flatten(self), plan::flatten(old));
        let keys = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
        keys.filter(|key| !HARMLESS.contains(&key.as_str()) && new.get(*key) != old.get(*key))
            .map(|key| {
                let show = |all: &std::collections::BTreeMap<String, String>| all.get(key).cloned().unwrap_or("unset".into());
                format!("{key} is {}, was {}", show(&new), show(&old))
            })
            .collect()
    }

    /// The backbone that these settings describe.
    pub fn vit(&self) -> VitConfig {
        let (width, depth, heads) = self.model.arch.sizes();
        VitConfig {
            width,
            depth,
            heads: self.model.heads.set().unwrap_or(heads),
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

    /// Crops and flips of masked image modelling.
    pub fn mim_augment(&self) -> MimAugment {
        MimAugment { crop_scale: self.augment.crop_scale, flip: self.augment.flip }
    }

    /// The two views of MoCo v3.
    pub fn moco_augment(&self, own: &MocoV3) -> MocoAugment {
        MocoAugment {
            crop_scale: self.augment.crop_scale,
            flip: self.augment.flip,
            jitter: own.jitter,
            strengths: own.jitter_strengths,
            grey: own.grey,
            blur: own.blur,
            blur_sigma: own.blur_sigma,
            solarize: own.solarize,
        }
    }

    /// The feature that the method trains.
    pub fn feature_kind(&self) -> FeatureKind {
        match &self.mimco {
            Some(own) if own.pooling == Pooling::Mean => FeatureKind::Mean,
            _ => FeatureKind::Class,
        }
    }

    /// Threads that decode and augment.
    pub fn workers(&self) -> usize {
        self.data.workers.set().unwrap_or((mimco_engine::cpu::threads::threads() / 2).max(1))
    }

    /// Images an update.
    pub fn images_per_update(&self) -> usize {
        self.train.batch_size * self.train.accumulate
    }

    /// The highest learning rate, scaled by the batch.
    pub fn learning_rate(&self) -> f64 {
        self.optim.lr * self.images_per_update() as f64 / self.optim.lr_batch as f64
    }

    /// The last learning rate, scaled by the batch.
    pub fn min_learning_rate(&self) -> f64 {
        self.optim.min_lr * self.images_per_update() as f64 / self.optim.lr_batch as f64
    }

    /// Updates in which the learning rate rises.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        (total as f64 * self.train.warmup).round() as u64
    }
}

/// A message of several lines in one.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for method in [MethodName::MocoV3, MethodName::Mimco] {
            let config = Config::defaults(method);
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
            config.check().unwrap();
        }
    }

    #[test]
    fn the_learning_rate_is_scaled_by_all_images_of_an_update() {
        let mut config = Config::defaults(MethodName::MocoV3);
        (config.train.batch_size, config.train.accumulate) = (512, 2);
        assert!((config.learning_rate() - 6e-4).abs() < 1e-12); // MoCo v3's for a batch of 1,024
        assert_eq!(config.warmup_steps(1000), 100);
    }

    #[test]
    fn differences_name_what_changes_the_result_alone() {
        let old = Config::defaults(MethodName::Mimco);
        let mut new = old.clone();
        new.data.workers = Auto::Set(7);
        new.train.checkpoint_steps = 3;
        assert!(new.differences(&old).is_empty());
        new.optim.lr = 0.5;
        new.mimco = None;
        let differences = new.differences(&old);
        assert_eq!(differences[0], "optim.lr is 0.5, was 0.0002");
        assert!(differences.iter().any(|d| d.starts_with("mimco.head is unset, was linear")), "{differences:?}");
    }

    #[test]
    fn impossible_settings_are_told_with_what_they_may_be() {
        let check = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::defaults(MethodName::Mimco);
            change(&mut config);
            config.check().map_err(|e| e.to_string())
        };
        assert!(check(&|c| c.model.heads = Auto::Set(5)).unwrap_err().contains("model.heads=5"));
        assert!(check(&|c| c.model.image_size = 200).unwrap_err().contains("multiple"));
        assert!(check(&|c| c.model.patch_size = 0).unwrap_err().contains("multiple"));
        assert!(check(&|c| (c.model.image_size, c.model.patch_size) = (4096, 1)).unwrap_err().contains("larger patches"));
        assert!(check(&|c| c.optim.lr = f64::NAN).unwrap_err().contains("optim.lr"));
        assert!(check(&|c| c.train.batch_size = 1).unwrap_err().contains("at least 2"));
        let unit = check(&|c| c.mask = Some(Mask { unit: Auto::Set(3), ..Mask::default() })).unwrap_err();
        assert!(unit.contains("mask.unit=3") && unit.contains("14"), "{unit}");
    }
}
